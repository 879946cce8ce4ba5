//! The feed's rows. What a transaction has to tell is gathered on its [`Link`] and written here as the last thing
//! before its commit ([`flush`]).

use std::{fmt::Write, time::Duration};

use aws_lc_rs::digest::{Context, SHA256};

use super::{
    link::{Connection, Link},
    query::{Query, Row},
};
use crate::{
    clock::Timestamp,
    policy::ids::{ApiKeyId, SessionId},
    store::{
        StoreFault,
        feed::{FeedEntry, FeedPage, FeedPosition, FeedReach, News},
    },
};

/// What listeners are called by. The call carries nothing: whoever hears it reads.
pub(super) const CHANNEL: &str = "portcullis_feed";

/// An entry that has no number yet.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) at: Timestamp,
    pub(super) until: Option<Timestamp>,
    pub(super) news: News,
}

const SESSION: &str = "session";
const TOKEN: &str = "token";
const SUBJECT: &str = "subject";
const AUTHORIZATION: &str = "authorization";
const KEYS: &str = "keys";
const API_KEY: &str = "api_key";
const QUOTA: &str = "quota";

/// Entries removed at once: whatever has piled up, each call ends within the store's time-out.
const PRUNED: i64 = 10_000;

/// Ended sessions written by one statement.
const AT_ONCE: usize = 1_000;

/// An entry that has its number.
struct Numbered {
    position: FeedPosition,
    told: Told,
}

/// Numbers and writes what was told. From here on every other writer waits for this transaction's end: nothing but the
/// commit may follow.
pub(super) async fn flush(link: &mut Link, told: Vec<Told>) -> Result<(), StoreFault> {
    let Some(count) = u64::try_from(told.len()).ok().filter(|count| *count > 0) else { return Ok(()) };
    let head = Query::new("UPDATE feed_head SET seq = seq + $1 RETURNING seq, link").bind(count).row(link).await?;
    let mut position = position_of(&head.ok_or_else(|| StoreFault::Inconsistent("feed_head is empty".into()))?)?;
    position.seq -= count;
    let mut numbered = Vec::with_capacity(told.len());
    for one in told {
        let (kind, detail) = written(&one.news)?;
        let place = session_of(&one.news).map(|session| session.0.as_bytes().to_vec()).unwrap_or_default();
        position = FeedPosition {
            seq: position.seq + 1,
            link: chained(
                &position.link,
                &[kind.as_bytes(), &place, detail.as_deref().unwrap_or("").as_bytes()],
                one.at,
            ),
        };
        numbered.push(Numbered { position: position.clone(), told: one });
    }
    let alike = |one: &Numbered, next: &Numbered| {
        one.is_end() && next.is_end() && one.told.at == next.told.at && one.told.until == next.told.until
    };
    for run in numbered.chunk_by(alike) {
        for some in run.chunks(AT_ONCE) {
            match some {
                [one] => insert(link, one).await?,
                some => insert_ends(link, some).await?,
            }
        }
    }
    Query::new("UPDATE feed_head SET link = $1").bind(position.link.as_slice()).execute(link).await?;
    if matches!(link.connection, Connection::Postgres(..)) {
        // Delivered at the commit, and to nobody if there is none.
        Query::new("SELECT pg_notify($1, '')").bind(CHANNEL).execute(link).await?;
    }
    Ok(())
}

impl Numbered {
    const fn is_end(&self) -> bool {
        matches!(self.told.news, News::Session(_))
    }
}

const fn session_of(news: &News) -> Option<SessionId> {
    if let News::Session(session) = news { Some(*session) } else { None }
}

async fn insert(link: &mut Link, one: &Numbered) -> Result<(), StoreFault> {
    let (kind, detail) = written(&one.told.news)?;
    Query::new("INSERT INTO feed (seq, link, at, until, kind, session_id, detail) VALUES ($1, $2, $3, $4, $5, $6, $7)")
        .bind(one.position.seq)
        .bind(one.position.link.as_slice())
        .bind(one.told.at)
        .bind(one.told.until)
        .bind(kind)
        .bind(session_of(&one.told.news))
        .bind(detail.as_deref())
        .execute(link)
        .await?;
    Ok(())
}

/// Sessions that ended at one moment, in one statement: somebody may end thousands, and while they are written every
/// other writer waits. Each is a word: its link, then its id.
async fn insert_ends(link: &mut Link, ends: &[Numbered]) -> Result<(), StoreFault> {
    let Some(first) = ends.first() else { return Ok(()) };
    let word = |one: &Numbered| {
        let id = session_of(&one.told.news).map(|session| *session.0.as_bytes()).unwrap_or_default();
        one.position.link.iter().chain(&id).fold(String::with_capacity(96), |mut word, byte| {
            let _ = write!(word, "{byte:02x}");
            word
        })
    };
    let words: Vec<_> = ends.iter().map(word).collect();
    Query::new(
        "INSERT INTO feed (seq, link, at, until, kind, session_id) \
         SELECT $1 + key, unhex(substr(value, 1, 64)), $2, $3, $4, unhex(substr(value, 65)) FROM json_each($5)",
    )
    .on_postgres(
        "INSERT INTO feed (seq, link, at, until, kind, session_id) \
         SELECT $1 + place - 1, decode(substr(word, 1, 64), 'hex'), $2, $3, $4, substr(word, 65)::uuid \
         FROM jsonb_array_elements_text($5) WITH ORDINALITY AS ends (word, place)",
    )
    .bind(first.position.seq)
    .bind(first.told.at)
    .bind(first.told.until)
    .bind(SESSION)
    .bind(words.as_slice())
    .execute(link)
    .await?;
    Ok(())
}

fn chained(before: &[u8; 32], parts: &[&[u8]], at: Timestamp) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(before);
    context.update(&at.micros().to_be_bytes());
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let mut link = [0; 32];
    link.copy_from_slice(context.finish().as_ref());
    link
}

fn written(news: &News) -> Result<(&'static str, Option<String>), StoreFault> {
    let json = |fault: serde_json::Error| StoreFault::Inconsistent(format!("an entry cannot be written: {fault}"));
    Ok(match news {
        News::Session(_) => (SESSION, None),
        News::Token(jti) => (TOKEN, Some(jti.clone())),
        News::SubjectBefore(subject) => (SUBJECT, Some(serde_json::to_string(subject).map_err(json)?)),
        News::Authorization(rights) => (AUTHORIZATION, Some(serde_json::to_string(rights).map_err(json)?)),
        News::Keys => (KEYS, None),
        News::ApiKey(id) => (API_KEY, Some(id.to_string())),
        News::Quota(reset) => (QUOTA, Some(serde_json::to_string(reset).map_err(json)?)),
    })
}

/// Rows looked at for each entry that may be given: most may be too old to matter, and no question may take for ever.
const LOOKED_AT: u32 = 10;

/// See [`crate::store::Store::feed`].
pub(super) async fn after(
    link: &mut Link,
    from: &FeedPosition,
    reach: FeedReach,
    most: u32,
) -> Result<Option<FeedPage>, StoreFault> {
    // The head first: what comes after this look is in the answer or after its position, never between.
    let row = Query::new("SELECT h.seq, h.link, f.at FROM feed_head h LEFT JOIN feed f ON f.seq = h.seq");
    let row = row.row(link).await?.ok_or_else(|| StoreFault::Inconsistent("feed_head is empty".into()))?;
    let (head, newest) = (position_of(&row)?, row.maybe_time("at")?);
    if *from == head {
        return Ok(Some(FeedPage { entries: Vec::new(), odd: Vec::new(), position: head, is_last: true }));
    }
    if *from != FeedPosition::START && !is_here(link, from, head.seq).await? {
        return Ok(None);
    }
    // A reader whose clock is ahead must miss nothing by it: no entry is older than the newest makes it.
    let ahead = newest.map_or(Duration::ZERO, |newest| reach.now.since(newest));
    let end = end_of(link, from, head.seq, most).await?;
    let rows = Query::new(
        "SELECT seq, link, at, until, kind, session_id, detail FROM feed \
         WHERE seq > $1 AND seq <= $2 AND ((until IS NULL AND at >= $3) OR until > $4) ORDER BY seq LIMIT $5",
    )
    .bind(from.seq)
    .bind(end.unwrap_or(i64::MAX.cast_unsigned()))
    .bind(reach.since.minus(ahead))
    .bind(reach.now.minus(ahead))
    .bind(i64::from(most))
    .rows(link)
    .await?;
    let last = rows.last().map(position_of).transpose()?;
    let is_full = rows.len() >= usize::try_from(most).unwrap_or(usize::MAX);
    let position = match (last, end) {
        (Some(last), _) if is_full || last.seq > head.seq => last,
        (_, Some(end)) => up_to(link, end).await?,
        (_, None) => head,
    };
    let (mut entries, mut odd) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in &rows {
        match entry_of(row) {
            Ok(entry) => entries.push(entry),
            // What cannot be read must not keep all that follows it from being known.
            Err(_) => odd.push(row.count("seq")?),
        }
    }
    Ok(Some(FeedPage { entries, odd, position, is_last: !is_full && end.is_none() }))
}

/// Where to stop looking; `None`: that much lies before the end.
async fn end_of(link: &mut Link, from: &FeedPosition, head: u64, most: u32) -> Result<Option<u64>, StoreFault> {
    let many = u64::from(most) * u64::from(LOOKED_AT);
    if head.saturating_sub(from.seq) <= many {
        return Ok(None);
    }
    // Old ones are gone: from the first that is there.
    let first = Query::new("SELECT seq FROM feed WHERE seq > $1 ORDER BY seq LIMIT 1").bind(from.seq).row(link).await?;
    let end = first.map(|row| row.count("seq")).transpose()?.map(|first| first.saturating_add(many));
    Ok(end.filter(|end| *end < head))
}

/// The last entry that is there, up to this number. There is one.
async fn up_to(link: &mut Link, end: u64) -> Result<FeedPosition, StoreFault> {
    let row = Query::new("SELECT seq, link FROM feed WHERE seq <= $1 ORDER BY seq DESC LIMIT 1").bind(end);
    position_of(&row.row(link).await?.ok_or_else(|| StoreFault::Inconsistent("the feed has lost its entries".into()))?)
}

/// Whether this is a place in the history that the store holds.
async fn is_here(link: &mut Link, from: &FeedPosition, head: u64) -> Result<bool, StoreFault> {
    if from.seq >= head {
        return Ok(false);
    }
    let row = Query::new("SELECT seq, link FROM feed WHERE seq = $1").bind(from.seq).row(link).await?;
    Ok(row.as_ref().map(position_of).transpose()?.as_ref() == Some(from))
}

/// Removes what no gateway can need any more, the oldest first, but not the newest.
pub(super) async fn prune(link: &mut Link, reach: FeedReach) -> Result<u64, StoreFault> {
    let removed = Query::new(
        "DELETE FROM feed WHERE seq IN (SELECT seq FROM feed WHERE ((until IS NULL AND at < $1) OR until <= $2) \
         AND seq < (SELECT seq FROM feed_head) ORDER BY seq LIMIT $3)",
    )
    .bind(reach.since)
    .bind(reach.now)
    .bind(PRUNED)
    .execute(link)
    .await?;
    Ok(removed)
}

fn position_of(row: &Row) -> Result<FeedPosition, StoreFault> {
    let link = row.bytes("link")?.try_into().map_err(|_| StoreFault::Inconsistent("an odd link in the feed".into()))?;
    Ok(FeedPosition { seq: row.count("seq")?, link })
}

fn entry_of(row: &Row) -> Result<FeedEntry, StoreFault> {
    let seq = row.count("seq")?;
    let (kind, detail) = (row.text("kind")?, row.maybe_text("detail")?.unwrap_or_default());
    let odd = || StoreFault::Inconsistent(format!("feed entry {seq} makes no sense"));
    let news = match kind.as_str() {
        SESSION => News::Session(SessionId(row.maybe_id("session_id")?.ok_or_else(odd)?)),
        TOKEN => News::Token(detail),
        SUBJECT => News::SubjectBefore(serde_json::from_str(&detail).map_err(|_| odd())?),
        AUTHORIZATION => News::Authorization(serde_json::from_str(&detail).map_err(|_| odd())?),
        KEYS => News::Keys,
        QUOTA => News::Quota(serde_json::from_str(&detail).map_err(|_| odd())?),
        API_KEY => News::ApiKey(detail.parse::<ApiKeyId>().map_err(|_| odd())?),
        _ => return Err(odd()),
    };
    Ok(FeedEntry { seq, at: row.time("at")?, until: row.maybe_time("until")?, news })
}
