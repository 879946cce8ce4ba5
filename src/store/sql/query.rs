//! Statements: the typed values that go in and come out, the same for both engines.
//!
//! The few true differences between the engines' types live here: a moment is `timestamptz` on PostgreSQL and whole
//! microseconds on SQLite; an id is `uuid` or 16 bytes; a list of words is `jsonb` or JSON text. SQL is always a
//! constant; values are always bound.

use sqlx::{
    Decode, Encode, Postgres, Row as _, Sqlite, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgRow, PgTypeInfo, PgValueRef},
    sqlite::{SqliteArgumentsBuffer, SqliteRow, SqliteTypeInfo, SqliteValueRef},
    types::Json,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    fault,
    link::{Connection, Link},
};
use crate::{
    clock::Timestamp,
    policy::ids::{ApiKeyId, SessionId, UserId},
    store::calls::{Asked, System, Telling},
};

/// A moment as each engine keeps it; both keep their order and every microsecond.
#[derive(Debug, Clone, Copy)]
struct Moment(Timestamp);

impl Type<Postgres> for Moment {
    fn type_info() -> PgTypeInfo {
        <OffsetDateTime as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Moment {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0.micros()) * 1_000)?;
        <OffsetDateTime as Encode<Postgres>>::encode(moment, buffer)
    }
}

impl<'r> Decode<'r, Postgres> for Moment {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let moment = <OffsetDateTime as Decode<Postgres>>::decode(value)?;
        Ok(Self(Timestamp::from_micros(i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000))?)))
    }
}

impl Type<Sqlite> for Moment {
    fn type_info() -> SqliteTypeInfo {
        <i64 as Type<Sqlite>>::type_info()
    }

    fn compatible(info: &SqliteTypeInfo) -> bool {
        <i64 as Type<Sqlite>>::compatible(info)
    }
}

impl Encode<'_, Sqlite> for Moment {
    fn encode_by_ref(&self, buffer: &mut SqliteArgumentsBuffer) -> Result<IsNull, BoxDynError> {
        <i64 as Encode<Sqlite>>::encode(self.0.micros(), buffer)
    }
}

impl<'r> Decode<'r, Sqlite> for Moment {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        <i64 as Decode<Sqlite>>::decode(value).map(|micros| Self(Timestamp::from_micros(micros)))
    }
}

/// A value to bind.
pub(super) enum Bind<'q> {
    Id(Option<Uuid>),
    Text(Option<&'q str>),
    Int(i64),
    MaybeInt(Option<i64>),
    Bool(bool),
    Bytes(Option<&'q [u8]>),
    Time(Option<Timestamp>),
    Words(&'q [String]),
}

macro_rules! binds {
    ($($from:ty, $value:ident => $bind:expr;)*) => {
        $(impl<'q> From<$from> for Bind<'q> {
            fn from($value: $from) -> Self {
                $bind
            }
        })*
    };
}

binds! {
    Uuid, id => Self::Id(Some(id));
    UserId, id => Self::Id(Some(id.0));
    SessionId, id => Self::Id(Some(id.0));
    ApiKeyId, id => Self::Id(Some(id.0));
    Option<UserId>, id => Self::Id(id.map(|id| id.0));
    Option<SessionId>, id => Self::Id(id.map(|id| id.0));
    &'q str, text => Self::Text(Some(text));
    Option<&'q str>, text => Self::Text(text);
    i64, int => Self::Int(int);
    bool, yes => Self::Bool(yes);
    &'q [u8], bytes => Self::Bytes(Some(bytes));
    Option<&'q [u8]>, bytes => Self::Bytes(bytes);
    Timestamp, at => Self::Time(Some(at));
    Option<Timestamp>, at => Self::Time(at);
    Option<u64>, count => Self::MaybeInt(count.map(|count| i64::try_from(count).unwrap_or(i64::MAX)));
    &'q [String], words => Self::Words(words);
}

impl From<u64> for Bind<'_> {
    /// Counters start at 1 and grow by one; none reaches the end of i64.
    fn from(count: u64) -> Self {
        Self::Int(i64::try_from(count).unwrap_or(i64::MAX))
    }
}

/// One statement and its values.
pub(super) struct Query<'q> {
    postgres: &'static str,
    sqlite: &'static str,
    binds: Vec<Bind<'q>>,
}

macro_rules! bound {
    ($engine:ty, $sql:expr, $binds:expr) => {{
        let mut query = sqlx::query::<$engine>($sql);
        for bind in $binds {
            query = match bind {
                Bind::Id(id) => query.bind(id),
                Bind::Text(text) => query.bind(text),
                Bind::Int(int) => query.bind(int),
                Bind::MaybeInt(int) => query.bind(int),
                Bind::Bool(yes) => query.bind(yes),
                Bind::Bytes(bytes) => query.bind(bytes),
                Bind::Time(at) => query.bind(at.map(Moment)),
                Bind::Words(words) => query.bind(Json(words)),
            };
        }
        query
    }};
}

impl<'q> Query<'q> {
    /// A statement that both engines understand.
    pub(super) fn new(sql: &'static str) -> Self {
        Self { postgres: sql, sqlite: sql, binds: Vec::new() }
    }

    /// The statement PostgreSQL gets instead.
    pub(super) fn on_postgres(self, sql: &'static str) -> Self {
        Self { postgres: sql, ..self }
    }

    /// Binds the next value (`$1`, `$2`, …).
    pub(super) fn bind(mut self, value: impl Into<Bind<'q>>) -> Self {
        self.binds.push(value.into());
        self
    }

    /// Runs it; gives the number of rows it changed.
    pub(super) async fn execute(self, link: &mut Link) -> Result<u64, sqlx::Error> {
        let told = self.begins(link);
        let changed = match &mut link.connection {
            Connection::Postgres(connection, _) => {
                let done = bound!(Postgres, self.postgres, self.binds).execute(&mut **connection).await;
                done.map(|done| done.rows_affected())
            }
            Connection::Sqlite(connection) => {
                let done = bound!(Sqlite, self.sqlite, self.binds).execute(&mut **connection).await;
                done.map(|done| done.rows_affected())
            }
        };
        told.ended(changed, fault::failure)
    }

    /// Runs it; gives its rows.
    pub(super) async fn rows(self, link: &mut Link) -> Result<Vec<Row>, sqlx::Error> {
        let told = self.begins(link);
        let rows = match &mut link.connection {
            Connection::Postgres(connection, _) => {
                let rows = bound!(Postgres, self.postgres, self.binds).fetch_all(&mut **connection).await;
                rows.map(|rows| rows.into_iter().map(Row::Postgres).collect())
            }
            Connection::Sqlite(connection) => {
                let rows = bound!(Sqlite, self.sqlite, self.binds).fetch_all(&mut **connection).await;
                rows.map(|rows| rows.into_iter().map(Row::Sqlite).collect())
            }
        };
        told.ended(rows, fault::failure)
    }

    fn begins(&self, link: &Link) -> Telling {
        match &link.connection {
            Connection::Postgres(_, server) => {
                Telling::begin(System::PostgreSql, Asked::Statement(self.postgres), Some(server))
            }
            Connection::Sqlite(_) => Telling::begin(System::Sqlite, Asked::Statement(self.sqlite), None),
        }
    }

    /// Runs it; gives its only row, if there is one.
    pub(super) async fn row(self, link: &mut Link) -> Result<Option<Row>, sqlx::Error> {
        Ok(self.rows(link).await?.into_iter().next())
    }
}

/// A row of an answer.
pub(super) enum Row {
    Postgres(PgRow),
    Sqlite(SqliteRow),
}

macro_rules! get {
    ($row:expr, $column:expr, $type:ty) => {
        match $row {
            Row::Postgres(row) => row.try_get::<$type, _>($column),
            Row::Sqlite(row) => row.try_get::<$type, _>($column),
        }
    };
}

impl Row {
    pub(super) fn id(&self, column: &str) -> Result<Uuid, sqlx::Error> {
        get!(self, column, Uuid)
    }

    pub(super) fn maybe_id(&self, column: &str) -> Result<Option<Uuid>, sqlx::Error> {
        get!(self, column, Option<Uuid>)
    }

    pub(super) fn text(&self, column: &str) -> Result<String, sqlx::Error> {
        get!(self, column, String)
    }

    pub(super) fn maybe_text(&self, column: &str) -> Result<Option<String>, sqlx::Error> {
        get!(self, column, Option<String>)
    }

    /// A number that is never negative.
    pub(super) fn count(&self, column: &str) -> Result<u64, sqlx::Error> {
        let int = get!(self, column, i64)?;
        u64::try_from(int).map_err(|error| sqlx::Error::ColumnDecode { index: column.into(), source: error.into() })
    }

    pub(super) fn maybe_count(&self, column: &str) -> Result<Option<u64>, sqlx::Error> {
        let decode =
            |error: std::num::TryFromIntError| sqlx::Error::ColumnDecode { index: column.into(), source: error.into() };
        get!(self, column, Option<i64>)?.map(|int| u64::try_from(int).map_err(decode)).transpose()
    }

    pub(super) fn yes(&self, column: &str) -> Result<bool, sqlx::Error> {
        get!(self, column, bool)
    }

    pub(super) fn bytes(&self, column: &str) -> Result<Vec<u8>, sqlx::Error> {
        get!(self, column, Vec<u8>)
    }

    pub(super) fn maybe_bytes(&self, column: &str) -> Result<Option<Vec<u8>>, sqlx::Error> {
        get!(self, column, Option<Vec<u8>>)
    }

    pub(super) fn time(&self, column: &str) -> Result<Timestamp, sqlx::Error> {
        get!(self, column, Moment).map(|moment| moment.0)
    }

    pub(super) fn maybe_time(&self, column: &str) -> Result<Option<Timestamp>, sqlx::Error> {
        Ok(get!(self, column, Option<Moment>)?.map(|moment| moment.0))
    }

    pub(super) fn words(&self, column: &str) -> Result<Vec<String>, sqlx::Error> {
        get!(self, column, Json<Vec<String>>).map(|words| words.0)
    }
}
