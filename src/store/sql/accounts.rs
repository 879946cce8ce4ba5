//! Accounts: users and their roles.

use secrecy::{ExposeSecret, SecretString};

use super::{
    audit,
    link::Link,
    query::{Query, Row},
    sessions,
};
use crate::{
    policy::{ids::UserId, validate::lookup_key},
    store::{
        Account, AccountFault, AuditEntry, AuditEvent, Login, NewAccount, NewSession, Opened, ProfilePatch,
        SessionLimit, StoreFault,
        audit::Particular,
        feed::{Authorization, News},
    },
};

macro_rules! select_account {
    ($condition:literal) => {
        concat!(
            "SELECT u.id, u.email, u.email_verified, u.username, u.full_name, u.org, u.active, \
             u.authorization_version, u.created_at, u.last_login_at, u.password_hash, r.role \
             FROM users u LEFT JOIN user_roles r ON r.user_id = u.id WHERE ",
            $condition,
            " ORDER BY r.position"
        )
    };
}

/// One account out of its rows, one a role.
fn account_of(rows: &[Row]) -> Result<Option<Account>, StoreFault> {
    let Some(row) = rows.first() else { return Ok(None) };
    let id = UserId(row.id("id")?);
    let roles = rows.iter().filter_map(|row| row.maybe_text("role").transpose()).collect::<Result<Vec<_>, _>>()?;
    if roles.is_empty() {
        return Err(StoreFault::Inconsistent(format!("user {id} has no role")));
    }
    Ok(Some(Account {
        id,
        email: row.text("email")?,
        email_verified: row.yes("email_verified")?,
        username: row.maybe_text("username")?,
        full_name: row.maybe_text("full_name")?,
        roles,
        org: row.maybe_text("org")?,
        active: row.yes("active")?,
        authorization_version: row.count("authorization_version")?,
        created_at: row.time("created_at")?,
        last_login_at: row.maybe_time("last_login_at")?,
    }))
}

pub(super) async fn by_id(link: &mut Link, id: UserId) -> Result<Option<Account>, StoreFault> {
    account_of(&Query::new(select_account!("u.id = $1")).bind(id).rows(link).await?)
}

/// An account that a row of ours refers to.
async fn existing(link: &mut Link, id: UserId) -> Result<Account, StoreFault> {
    by_id(link, id).await?.ok_or_else(|| StoreFault::Inconsistent(format!("user {id} is gone")))
}

pub(super) async fn by_login(link: &mut Link, login: &Login) -> Result<Option<(Account, SecretString)>, StoreFault> {
    let (sql, name) = match login {
        Login::Email(email) => (select_account!("u.email_key = $1"), email),
        Login::Username(username) => (select_account!("u.username_key = $1"), username),
    };
    let rows = Query::new(sql).bind(lookup_key(name).as_str()).rows(link).await?;
    let Some(account) = account_of(&rows)? else { return Ok(None) };
    let hash = rows.first().map(|row| row.text("password_hash")).transpose()?.unwrap_or_default();
    Ok(Some((account, SecretString::from(hash))))
}

pub(super) async fn upgrade_password_hash(
    link: &mut Link,
    id: UserId,
    old: &SecretString,
    new: &SecretString,
) -> Result<bool, StoreFault> {
    let changed = Query::new("UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2")
        .bind(id)
        .bind(old.expose_secret())
        .bind(new.expose_secret())
        .execute(link)
        .await?;
    Ok(changed == 1)
}

pub(super) async fn register(
    link: &mut Link,
    account: &NewAccount,
    session: &NewSession,
    entry: &AuditEntry,
) -> Result<Account, AccountFault> {
    insert(link, account).await?;
    audit::append(link, &AuditEntry { event: AuditEvent::Registered, ..entry.clone() }).await?;
    sessions::insert(link, session).await?;
    audit::append(link, &AuditEntry { event: AuditEvent::LoginSucceeded, ..entry.clone() }).await?;
    Ok(existing(link, account.id).await?)
}

async fn insert(link: &mut Link, account: &NewAccount) -> Result<(), AccountFault> {
    let username_key = account.username.as_deref().map(lookup_key);
    Query::new(
        "INSERT INTO users (id, email, email_key, email_verified, username, username_key, full_name, password_hash, \
         active, authorization_version, created_at, last_login_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)",
    )
    .bind(account.id)
    .bind(account.email.as_str())
    .bind(lookup_key(&account.email).as_str())
    .bind(false)
    .bind(account.username.as_deref())
    .bind(username_key.as_deref())
    .bind(account.full_name.as_deref())
    .bind(account.password_hash.expose_secret())
    .bind(true)
    .bind(1_i64)
    .bind(account.created_at)
    .execute(link)
    .await?;
    Ok(insert_roles(link, account.id, &account.roles).await?)
}

async fn insert_roles(link: &mut Link, id: UserId, roles: &[String]) -> Result<(), sqlx::Error> {
    for (position, role) in (0_i64..).zip(roles) {
        Query::new("INSERT INTO user_roles (user_id, position, role) VALUES ($1, $2, $3)")
            .bind(id)
            .bind(position)
            .bind(role.as_str())
            .execute(link)
            .await?;
    }
    Ok(())
}

/// Holds the user's row first, so that two changes, or a change and a login, follow each other.
pub(super) async fn change_authorization(
    link: &mut Link,
    id: UserId,
    roles: &[String],
    org: Option<&str>,
    entry: &AuditEntry,
) -> Result<Account, AccountFault> {
    let locked = Query::new("UPDATE users SET active = active WHERE id = $1").bind(id).execute(link).await?;
    if locked == 0 {
        return Err(AccountFault::Missing);
    }
    let before = existing(link, id).await?;
    if before.roles == roles && before.org.as_deref() == org {
        return Ok(before);
    }
    Query::new("UPDATE users SET org = $2, authorization_version = authorization_version + 1 WHERE id = $1")
        .bind(id)
        .bind(org)
        .execute(link)
        .await?;
    Query::new("DELETE FROM user_roles WHERE user_id = $1").bind(id).execute(link).await?;
    insert_roles(link, id, roles).await?;
    audit::append(link, &AuditEntry { user: Some(id), ..entry.clone() }).await?;
    let after = existing(link, id).await?;
    let rights = Authorization {
        user: id,
        version: after.authorization_version,
        roles: after.roles.clone(),
        scopes: Vec::new(),
        org: after.org.clone(),
    };
    link.tell(entry.at, None, News::Authorization(rights));
    Ok(after)
}

pub(super) async fn update_profile(
    link: &mut Link,
    id: UserId,
    patch: &ProfilePatch,
    entry: &AuditEntry,
) -> Result<Account, AccountFault> {
    let full_name = patch.full_name.as_ref().map(Option::as_deref);
    let username = patch.username.as_ref().map(Option::as_deref);
    let username_key = username.flatten().map(lookup_key);
    let changed = Query::new(
        "UPDATE users SET full_name = CASE WHEN $2 THEN $3 ELSE full_name END, \
         username = CASE WHEN $4 THEN $5 ELSE username END, \
         username_key = CASE WHEN $4 THEN $6 ELSE username_key END WHERE id = $1",
    )
    .bind(id)
    .bind(full_name.is_some())
    .bind(full_name.flatten())
    .bind(username.is_some())
    .bind(username.flatten())
    .bind(username_key.as_deref())
    .execute(link)
    .await?;
    if changed == 0 {
        return Err(AccountFault::Missing);
    }
    audit::append(link, entry).await?;
    Ok(existing(link, id).await?)
}

/// Opens a session for an account that is active; the update holds its row until the transaction ends, so that a
/// deactivation comes either before it or after the session it must end, and of several logins at once each counts the
/// sessions of those before it.
pub(super) async fn open_session(
    link: &mut Link,
    session: &NewSession,
    limit: &SessionLimit,
    entry: &AuditEntry,
) -> Result<Option<Opened>, StoreFault> {
    let active = Query::new("UPDATE users SET last_login_at = $2 WHERE id = $1 AND active")
        .bind(session.user)
        .bind(session.created_at)
        .execute(link)
        .await?;
    if active == 0 {
        return Ok(None);
    }
    let new_device = sessions::is_new_device(link, session).await?;
    sessions::insert(link, session).await?;
    audit::append(link, entry).await?;
    if new_device {
        let detail = entry.detail.clone().text(Particular::UserAgent, session.user_agent.as_deref());
        audit::append(link, &AuditEntry { event: AuditEvent::NewDevice, detail, ..entry.clone() }).await?;
    }
    let ended = sessions::end_oldest(link, session, limit, entry).await?;
    let account = existing(link, session.user).await?;
    Ok(Some(Opened { account, ended }))
}
