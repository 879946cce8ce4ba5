//! Pages of a list: how many are asked for. Where the next begins is each list's own to say (`cursor` in the query,
//! `next` in the answer): opaque text, good for the same question asked again.

use super::query::Query;

/// What a page holds when nothing is said.
const USUAL: u32 = 50;

/// What it holds at most.
pub(crate) const MOST: u32 = 200;

/// How many are asked for.
pub(crate) fn limit(query: &mut Query) -> u32 {
    let limit = query.optional("limit", |text: String| {
        let asked = text.parse().ok().filter(|asked| (1..=MOST).contains(asked));
        asked.ok_or("must be a number from 1 to 200")
    });
    limit.unwrap_or(USUAL)
}
