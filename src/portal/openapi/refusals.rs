//! Why a call may be refused before its handler is asked: by the layers that every request passes.

use crate::{
    config::settings::AuthMode,
    policy::{overload::Calls, reason::Reason},
    portal::endpoints::Endpoint,
};

/// What any call with a body may meet.
const BODY: &[Reason] =
    &[Reason::BodyBroken, Reason::BodyTimeout, Reason::BodyTooLarge, Reason::MediaType, Reason::Validation];

/// What a form may meet, which a page on another site can send.
const FORM: &[Reason] = &[Reason::CrossSite];

/// What a call that needs a token may meet.
const TOKEN: &[Reason] =
    &[Reason::CredentialsMissing, Reason::TokenMalformed, Reason::TokensUnchecked, Reason::RevocationsStale];

/// What `portal.limits` may say.
const LIMITS: &[Reason] =
    &[Reason::AddressLimited, Reason::SubjectLimited, Reason::RouteLimited, Reason::ConcurrencyLimited];

/// All of them that this endpoint may give.
pub(super) fn before(endpoint: &Endpoint, takes_body: bool, takes_form: bool) -> Vec<Reason> {
    let proves_client = endpoint.proves_client();
    let met: [(bool, &[Reason]); 6] = [
        (takes_body && !proves_client, BODY),
        (takes_form, FORM),
        (endpoint.auth == AuthMode::Required, TOKEN),
        (proves_client || !endpoint.of_services(), LIMITS),
        (true, &[Reason::AddressFlooding]),
        (!matches!(endpoint.calls(), Calls::Vital), &[Reason::Overloaded]),
    ];
    met.into_iter().filter(|(meets, _)| *meets).flat_map(|(_, reasons)| reasons).copied().collect()
}
