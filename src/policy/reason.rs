//! Why a request was answered as it was: one closed list, shared by problem documents, logs and metrics.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $label:literal,)*) => {
        /// Why a request was answered as it was. The label is stable: alerts and clients depend on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[doc = $doc])* $name,)*
        }

        impl Reason {
            /// Every reason, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable label: `code` in problem documents, `reason` in logs and metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// What it means, in a sentence: for the reference.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),*).trim_ascii(),)*
                }
            }
        }
    };
}

reasons! {
    /// Answered as asked.
    Ok = "ok",
    /// `Host` is missing, doubled, malformed or not the authority asked for.
    HostInvalid = "host_invalid",
    /// The path is ambiguous or malformed.
    PathInvalid = "path_invalid",
    /// A header name holds `_`, or a header we must understand is malformed or doubled.
    HeaderInvalid = "header_invalid",
    /// A `Transfer-Encoding` other than `chunked`.
    TransferEncodingInvalid = "transfer_encoding_invalid",
    /// A method no proxy of ours forwards (`CONNECT`, `TRACE`).
    MethodRefused = "method_refused",
    /// No route matches.
    NoRoute = "no_route",
    /// A route matches the path but not the method.
    MethodNotAllowed = "method_not_allowed",
    /// The request body is larger than the route allows.
    BodyTooLarge = "body_too_large",
    /// The client stopped sending its body.
    BodyTimeout = "body_timeout",
    /// The client broke off or sent a body that does not parse.
    BodyBroken = "body_broken",
    /// Credentials are needed and none came.
    CredentialsMissing = "credentials_missing",
    /// The `Authorization` header is malformed, doubled or of another scheme.
    CredentialsMalformed = "credentials_malformed",
    /// The token is not a well-formed access token of ours.
    TokenMalformed = "token_malformed",
    /// The signature does not verify, or no key fits.
    TokenSignature = "token_signature",
    /// Past `exp`.
    TokenExpired = "token_expired",
    /// Before `nbf`.
    TokenNotYetValid = "token_not_yet_valid",
    /// Another issuer's token.
    TokenIssuer = "token_issuer",
    /// Meant for another audience.
    TokenAudience = "token_audience",
    /// A token that would live longer than its issuer's tokens may.
    TokenLifetime = "token_lifetime",
    /// A token of another kind (`typ`).
    TokenKind = "token_kind",
    /// Its session has ended.
    SessionEnded = "session_ended",
    /// It was revoked, or all that its subject was issued up to then.
    TokenRevoked = "token_revoked",
    /// The access token a stream was opened with has run out, and nobody has refreshed the session since.
    StreamExpired = "stream_expired",
    /// What came as an API key was never issued here.
    ApiKeyMalformed = "api_key_malformed",
    /// There is no such API key any more, or its owner's account is not active.
    ApiKeyInvalid = "api_key_invalid",
    /// The API key has run out.
    ApiKeyExpired = "api_key_expired",
    /// The API key was revoked.
    ApiKeyRevoked = "api_key_revoked",
    /// An API key came where none is taken: at an account endpoint, or on a route that does not list them.
    ApiKeyNotAccepted = "api_key_not_accepted",
    /// The caller has no API key of this id.
    ApiKeyUnknown = "api_key_unknown",
    /// The caller has as many API keys as a user may have.
    ApiKeyLimit = "api_key_limit",
    /// A reference to claims that is unknown here, or whose identity is over.
    ReferenceUnknown = "reference_unknown",
    /// None of the roles the route needs.
    RoleMissing = "role_missing",
    /// A scope the route needs is missing.
    ScopeMissing = "scope_missing",
    /// A limit by client address is used up.
    AddressLimited = "address_limited",
    /// The address sends too much that is no good request.
    AddressFlooding = "address_flooding",
    /// The address sends too many tokens whose signature does not verify, and this one is not among the verified ones.
    TokensUnchecked = "tokens_unchecked",
    /// A limit by who calls (subject, session, API key, client, organisation) is used up.
    SubjectLimited = "subject_limited",
    /// A limit by route, or by what a trusted proxy says, is used up.
    RouteLimited = "route_limited",
    /// As many requests are under way at once as a cap allows.
    ConcurrencyLimited = "concurrency_limited",
    /// As many streams are open at once as a cap allows.
    StreamsLimited = "streams_limited",
    /// A quota of an hour, a day or a month is used up.
    QuotaUsedUp = "quota_used_up",
    /// A hard budget was used up while the answer flowed.
    BudgetUsedUp = "budget_used_up",
    /// Wrong login, for whatever cause.
    LoginFailed = "login_failed",
    /// Logins to too many accounts failed from this address.
    AddressLocked = "address_locked",
    /// As many logins of this kind are under way as could fail.
    LoginsUnderWay = "logins_under_way",
    /// Too many of these calls: from one address, for one, or by one user.
    CallsPaced = "calls_paced",
    /// The refresh token is not good.
    RefreshInvalid = "refresh_invalid",
    /// An old refresh token came back; the session was killed.
    RefreshReuse = "refresh_reuse",
    /// No live session of the caller's.
    SessionUnknown = "session_unknown",
    /// Nothing is locked that goes by this name.
    LockoutUnknown = "lockout_unknown",
    /// Nothing is used of a quota by whoever was named.
    QuotaUnknown = "quota_unknown",
    /// Logins from this part of the network are refused for a while: many people's passwords were tried from there.
    LoginsRefused = "logins_refused",
    /// The client of an OAuth endpoint has not proven who it is.
    ClientInvalid = "invalid_client",
    /// A call of an OAuth endpoint is not understood.
    RequestInvalid = "invalid_request",
    /// A token of a kind that cannot be revoked.
    TokenTypeUnsupported = "unsupported_token_type",
    /// A request body of the portal's does not fit its schema.
    Validation = "validation",
    /// The account exists already.
    AccountExists = "account_exists",
    /// Registration is closed.
    RegistrationClosed = "registration_closed",
    /// A cookie came from where a cookie may not come from.
    CrossSite = "cross_site",
    /// A preflight from an origin that the route does not list.
    OriginRefused = "origin_refused",
    /// A decision was asked for by a peer that `forward_auth.trusted` does not name.
    ForwardAuthPeer = "forward_auth_peer",
    /// A decision was asked for without saying, once, which method, path or host it is about.
    ForwardAuthOriginal = "forward_auth_original",
    /// The request body is not of the media type the endpoint takes.
    MediaType = "media_type",
    /// The hash queue is full.
    HashQueueFull = "hash_queue_full",
    /// There is too much to do, or too little memory left.
    Overloaded = "overloaded",
    /// It has not been known for too long what was revoked, and the route would rather refuse.
    RevocationsStale = "revocations_stale",
    /// The store did not answer.
    StoreUnavailable = "store_unavailable",
    /// No key of the token's issuer could be fetched.
    IssuerUnavailable = "issuer_unavailable",
    /// No endpoint of the cluster is healthy.
    UpstreamUnhealthy = "upstream_unhealthy",
    /// The upstream refused the connection or the TLS handshake.
    UpstreamConnect = "upstream_connect",
    /// The upstream broke off before its answer's head was whole, or its answer does not parse.
    UpstreamBroken = "upstream_broken",
    /// The upstream did not answer in time.
    UpstreamTimeout = "upstream_timeout",
    /// The whole exchange took too long.
    TotalTimeout = "total_timeout",
    /// The answer was cut after its head was sent: the upstream broke off, fell silent, or time ran out.
    AnswerCut = "answer_cut",
    /// The client went away.
    ClientGone = "client_gone",
    /// A fault of ours.
    Internal = "internal",
}
