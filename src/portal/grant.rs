//! Handing out tokens: a session becomes an access token, a refresh token and the answer that carries both.

use http::{HeaderValue, StatusCode};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    clock::Timestamp,
    gate::refusal::Refusal,
    policy::{
        claims::Claims,
        ids::{SessionId, UserId},
        mint,
        refresh::Delivery,
        refresh_token,
    },
    portal::{
        PortalState,
        answers::{Answer, TokenAnswer, UserAnswer},
        caller::Caller,
        cookie,
    },
    store::{Account, NewSession, Session},
};

/// `client_id` (RFC 9068 §2.2) of tokens that a login of a person at the portal made.
const CLIENT_ID: &str = "portal";

/// `amr` of a login by password (RFC 8176 §2).
const BY_PASSWORD: &str = "pwd";

impl PortalState {
    /// A session for a login by password that happens now.
    pub(crate) fn new_session(
        &self,
        user: UserId,
        delivery: Option<Delivery>,
        caller: &Caller,
        now: Timestamp,
    ) -> NewSession {
        let mut salt = [0; 32];
        self.entropy.fill(&mut salt);
        NewSession {
            id: SessionId(self.entropy.uuid_v7(now)),
            user,
            salt,
            delivery: delivery.unwrap_or(self.tokens.delivery),
            methods: vec![BY_PASSWORD.to_owned()],
            user_agent: caller.user_agent(),
            address: caller.address(),
            created_at: now,
        }
    }

    /// The answer that hands out the session's tokens of this moment.
    pub(crate) fn grant(
        &self,
        status: StatusCode,
        session: &Session,
        account: &Account,
        now: Timestamp,
    ) -> Result<Answer, Refusal> {
        let claims = self.claims(session, account, now);
        let access =
            mint::access_token(&self.keyring.access(), &claims).map_err(|f| Refusal::internal(f.to_string()))?;
        let key = self.refresh_key(session.id, &session.salt);
        let refresh = refresh_token::issue(key.expose_secret(), session.id, session.counter);
        let life = u64::try_from(claims.expires - claims.issued).unwrap_or(0);
        let in_body = session.delivery == Delivery::Body;
        let answer = Answer::json(
            status,
            &TokenAnswer {
                access_token: access.expose_secret(),
                token_type: "Bearer",
                expires_in: life,
                refresh_token: in_body.then(|| refresh.expose_secret()),
                user: UserAnswer::of(account)?,
            },
        )?;
        if in_body {
            return Ok(answer);
        }
        let mut cookies = self.cookies_for(session, &refresh, now)?;
        cookies.extend(cookie::access(&access, life, &self.portal)?);
        Ok(answer.with_cookies(cookies))
    }

    fn cookies_for(
        &self,
        session: &Session,
        refresh: &SecretString,
        now: Timestamp,
    ) -> Result<Vec<HeaderValue>, Refusal> {
        let life = self.tokens.refresh.ends_at(session.created_at, session.rotated_at).since(now);
        cookie::set(refresh, life, &self.portal)
    }

    fn claims(&self, session: &Session, account: &Account, now: Timestamp) -> Claims {
        // No access token outlives its session's last possible moment.
        let expires = now.plus(self.tokens.access_ttl).min(self.absolute_end(session));
        Claims {
            issuer: self.tokens.issuer.clone(),
            subject: account.id.to_string().into(),
            audience: vec![self.tokens.audience.as_ref().into()],
            expires: expires.seconds(),
            not_before: Some(now.seconds()),
            issued: now.seconds(),
            token_id: self.entropy.uuid_v7(now).to_string().into(),
            session: Some(session.id),
            client_id: Some(CLIENT_ID.into()),
            roles: account.roles.iter().map(|role| role.as_str().into()).collect(),
            scopes: Vec::new(),
            org: account.org.as_deref().map(Into::into),
            authorization_version: account.authorization_version,
            generation: session.counter,
            email: Some(account.email.as_str().into()),
            email_verified: account.email_verified,
            methods: session.methods.iter().map(|method| method.as_str().into()).collect(),
            auth_time: Some(session.created_at.seconds()),
        }
    }

    fn absolute_end(&self, session: &Session) -> Timestamp {
        session.created_at.plus(self.tokens.refresh.absolute)
    }
}

/// The row a new session became.
pub(crate) fn opened(session: NewSession) -> Session {
    Session {
        id: session.id,
        user: session.user,
        salt: session.salt,
        delivery: session.delivery,
        methods: session.methods,
        user_agent: session.user_agent,
        address: session.address,
        counter: 1,
        seen_generation: 0,
        created_at: session.created_at,
        rotated_at: session.created_at,
        handed_out_at: session.created_at,
        last_seen_at: session.created_at,
        ended_at: None,
    }
}
