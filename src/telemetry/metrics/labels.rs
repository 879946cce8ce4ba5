//! The closed lists of label values. What is not listed here is no label of ours, but for names in the configuration
//! and the addresses that an endpoint's name has in DNS.

mod borrowed;

use http::{Method, StatusCode};

pub use self::borrowed::{
    ClusterName, EndpointName, FileSha256, IssuerName, LimitName, QuotaName, RouteName, WebhookName,
};
use super::cells::Label;
use crate::policy::usage::Source;

macro_rules! labels {
    ($($(#[$doc:meta])* $type:ident: $name:literal { $($(#[$value_doc:meta])* $value:ident = $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $type {
            $($(#[$value_doc])* $value,)*
        }

        impl Label for $type {
            const NAME: &'static str = $name;
            const ALL: &'static [Self] = &[$(Self::$value,)*];

            fn index(self) -> usize {
                self as usize
            }

            fn value(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)*
                }
            }
        }
    )*};
}

labels! {
    /// The request's method; whatever is not common is `other`.
    Verb: "method" {
        /// GET
        Get = "GET",
        /// HEAD
        Head = "HEAD",
        /// POST
        Post = "POST",
        /// PUT
        Put = "PUT",
        /// PATCH
        Patch = "PATCH",
        /// DELETE
        Delete = "DELETE",
        /// OPTIONS
        Options = "OPTIONS",
        /// Any other.
        Other = "other",
    }

    /// Class of the answer's status.
    StatusClass: "status" {
        /// 1xx
        Informational = "1xx",
        /// 2xx
        Success = "2xx",
        /// 3xx
        Redirection = "3xx",
        /// 4xx
        ClientError = "4xx",
        /// 5xx and anything beyond.
        ServerError = "5xx",
    }

    /// How a client connection ended.
    ConnectionResult: "result" {
        /// Either side closed it in order.
        Closed = "closed",
        /// Closed by us: idle too long, or draining.
        Retired = "retired",
        /// Ended by an error; see `portcullis_connection_errors_total`.
        Failed = "failed",
        /// Still busy when the drain's time was up.
        Cut = "cut",
        /// Closed by us, quiet as it was, for a new one: all places were taken.
        Evicted = "evicted",
    }

    /// Why a client's new connection, or request, was refused early.
    FloodKind: "kind" {
        /// Its address has as many connections as it may; closed.
        Held = "held",
        /// Its address has opened too many; closed.
        Connections = "connections",
        /// Its address has sent too much that is no good request; a new connection was closed.
        BadConnections = "bad_connections",
        /// The same; a request was answered 429.
        BadRequests = "bad_requests",
        /// Its address has sent too many tokens whose signature does not verify; answered 429.
        FailedTokens = "failed_tokens",
    }

    /// What came of a token whose signature was asked for.
    SignatureCheck: "result" {
        /// It verifies.
        Good = "good",
        /// It does not.
        Bad = "bad",
        /// Known not to; nothing was computed.
        KnownBad = "known_bad",
    }

    /// Why a client connection failed.
    ConnectionError: "kind" {
        /// What came is not HTTP; answered with hyper's bare 400.
        Parse = "parse",
        /// A head above its limits; answered with a bare 414 or 431. On HTTP/2 one stream's; the connection lives on.
        TooLarge = "too_large",
        /// Silent, half-typed or stalled for too long.
        Timeout = "timeout",
        /// We broke an answer off after its head: the upstream failed, or its time ran out.
        AnswerCut = "answer_cut",
        /// The socket failed or the client broke off in the middle of a message.
        Io = "io",
        /// The TLS handshake failed or was too slow.
        Tls = "tls",
        /// Frames of HTTP/2 that ask for nothing, or requests taken back: too many.
        Flood = "flood",
    }

    /// What authentication decided.
    AuthDecision: "decision" {
        /// The route does not ask, or nothing was offered.
        NotRequested = "not_requested",
        /// Good credentials.
        Authenticated = "authenticated",
        /// Bad credentials.
        Failed = "failed",
    }

    /// What a cache did.
    CacheResult: "result" {
        /// Found.
        Hit = "hit",
        /// Not found.
        Miss = "miss",
    }

    /// How an API key is known.
    ApiKeyLookup: "result" {
        /// It was looked up before.
        Remembered = "remembered",
        /// It was not issued here, as it says itself.
        Malformed = "malformed",
        /// In the store.
        Found = "found",
        /// Not in the store.
        Unknown = "unknown",
        /// The store did not answer.
        Lost = "lost",
        /// Not known, because too many waited for the store: told to come again.
        Busy = "busy",
    }

    /// What came of an attempt to fetch an issuer's keys.
    FetchResult: "result" {
        /// A key set.
        Fetched = "fetched",
        /// No connection.
        Connect = "connect",
        /// Too slow.
        Timeout = "timeout",
        /// Broke off, or another status than 200.
        Answer = "answer",
        /// It led where it may not lead: another host, a private address, no https.
        Elsewhere = "elsewhere",
        /// Too large, or not a document of that issuer's.
        Document = "document",
    }

    /// What came of a refresh.
    RefreshResult: "result" {
        /// A new pair.
        Rotated = "rotated",
        /// The same successor again, within the grace.
        Repeated = "repeated",
        /// An old token came back; the session was killed.
        Reused = "reused",
        /// Not a good token.
        Refused = "refused",
        /// The store did not answer.
        Unavailable = "unavailable",
    }

    /// What became of a password hash that was asked for.
    HashResult: "result" {
        /// Done.
        Done = "done",
        /// Its requester had gone when its turn came.
        Skipped = "skipped",
        /// Refused: the queue was full.
        QueueFull = "queue_full",
        /// Refused: its address had its share of the queue.
        AddressFull = "address_full",
        /// A weak hash that stays until its owner's next login: there was enough to do.
        Postponed = "postponed",
    }

    /// What a limit decided.
    LimitResult: "result" {
        /// Within the limit.
        Admitted = "admitted",
        /// Over the limit.
        Refused = "refused",
        /// Over a limit that only looks on: admitted.
        ShadowRefused = "shadow_refused",
    }

    /// What a quota decided.
    QuotaResult: "result" {
        /// Within the quota.
        Admitted = "admitted",
        /// Not within it.
        Refused = "refused",
        /// Not within it, but it refuses nothing.
        Shadow = "shadow",
        /// Within it as far as this gateway knows alone: the store was lost.
        Alone = "alone",
        /// Not known, because too many waited for the store: told to come again.
        Busy = "busy",
    }

    /// What a counter of failed logins said of one, or what became of it.
    LockoutResult: "result" {
        /// It may be tried.
        Admitted = "admitted",
        /// As many are under way as could fail; it has to come again.
        Busy = "busy",
        /// Not yet.
        Waits = "waits",
        /// Not before somebody lifts it.
        Stopped = "stopped",
        /// Its failure locked something: an account, an address, a device cookie.
        Locked = "locked",
    }

    /// Which calls are paced.
    PacedCall: "call" {
        /// Registration.
        Register = "register",
        /// Making an API key.
        ApiKey = "api_key",
    }

    /// What came of a request to an upstream.
    UpstreamResult: "result" {
        /// An answer's head arrived.
        Answered = "answered",
        /// No endpoint is healthy.
        Unhealthy = "unhealthy",
        /// No connection.
        Connect = "connect",
        /// Broke off before the head was whole.
        Broken = "broken",
        /// No head in time.
        Timeout = "timeout",
        /// The client went away first.
        Cancelled = "cancelled",
    }

    /// What came of an attempt to connect to an upstream.
    ConnectResult: "result" {
        /// Connected.
        Connected = "connected",
        /// Refused, unreachable or the TLS handshake failed.
        Failed = "failed",
        /// Too slow.
        Timeout = "timeout",
    }

    /// What came of reading the configuration again.
    ReloadResult: "result" {
        /// In force.
        Applied = "applied",
        /// It says what is in force already.
        Unchanged = "unchanged",
        /// It has mistakes; the last good one stays.
        Broken = "broken",
        /// It changes what only a restart can change; the last good one stays.
        NeedsRestart = "needs_restart",
    }

    /// What Redis is asked for.
    SharedStateCall: "kind" {
        /// For a request that waits.
        Charge = "charge",
        /// For requests taken ahead.
        Lease = "lease",
        /// For a sign of life.
        Probe = "probe",
    }

    /// What came of asking Redis.
    SharedStateResult: "result" {
        /// It answered.
        Answered = "answered",
        /// No connection, or an error.
        Failed = "failed",
        /// No answer within the deadline.
        Timeout = "timeout",
    }

    /// Why a request was sent away.
    ShedCause: "cause" {
        /// Too many whose answer had not begun.
        Requests = "requests",
        /// Too little memory.
        Memory = "memory",
    }

    /// What came of reading the store.
    ReadResult: "result" {
        /// Read.
        Ok = "ok",
        /// The store is lost.
        Failed = "failed",
    }

    /// What an entry of the revocation feed is about.
    RevocationKind: "kind" {
        /// A session that has ended.
        Session = "session",
        /// One access token.
        Token = "token",
        /// The older tokens of a subject.
        Subject = "subject",
        /// A user's changed rights.
        Authorization = "authorization",
        /// An API key.
        ApiKey = "api_key",
    }

    /// What came of an attempt to seal audit rows.
    SealingResult: "result" {
        /// Rows were sealed.
        Sealed = "sealed",
        /// There was nothing to seal.
        Idle = "idle",
        /// Another gateway was at it.
        Elsewhere = "elsewhere",
        /// The store is lost.
        Failed = "failed",
    }

    /// What came of an attempt to deliver to a webhook.
    DeliveryResult: "result" {
        /// Answered 2xx.
        Delivered = "delivered",
        /// Not, and it will be tried again.
        Failed = "failed",
        /// Not, for as long as it is tried.
        GivenUp = "given_up",
        /// Too many were waiting.
        Dropped = "dropped",
    }

    /// What flows for a caller.
    StreamKind: "kind" {
        /// An answer.
        Stream = "stream",
        /// A request's body.
        Upload = "upload",
        /// A tunnel, both ways.
        Tunnel = "tunnel",
    }

    /// Which way tokens went.
    TokenKind: "kind" {
        /// The model read them.
        Input = "input",
        /// It wrote them.
        Output = "output",
    }

    /// Whose word a number of tokens is.
    TokenSource: "source" {
        /// The service's.
        Reported = "reported",
        /// Counted here: an approximation.
        Counted = "counted",
    }

    /// What became of a span.
    SpanResult: "result" {
        /// The collector took it.
        Exported = "exported",
        /// The collector did not take it.
        Failed = "failed",
        /// The queue was full.
        Dropped = "dropped",
    }

    /// What a pooled connection does.
    PoolState: "state" {
        /// Waiting for work.
        Idle = "idle",
        /// At work.
        Busy = "busy",
    }
}

impl From<&Method> for Verb {
    fn from(method: &Method) -> Self {
        match *method {
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::POST => Self::Post,
            Method::PUT => Self::Put,
            Method::PATCH => Self::Patch,
            Method::DELETE => Self::Delete,
            Method::OPTIONS => Self::Options,
            _ => Self::Other,
        }
    }
}

impl From<Source> for TokenSource {
    fn from(source: Source) -> Self {
        match source {
            Source::Reported => Self::Reported,
            Source::Counted => Self::Counted,
        }
    }
}

impl From<StatusCode> for StatusClass {
    fn from(status: StatusCode) -> Self {
        match status.as_u16() {
            ..200 => Self::Informational,
            200..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }
}
