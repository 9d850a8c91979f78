//! `GET /hostname/`: every rule, or a page of those that match, sorted by name. A million rules are
//! written as they are sent, on another thread, and never held as one text.

use std::collections::BinaryHeap;
use std::io::{self, Write};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::response::Response;
use tokio::sync::mpsc;

use super::asker::Asker;
use super::error::ApiError;
use super::ranking::HostOrder;
use super::route::Query;
use super::search::Search;
use super::{Api, tagged, tell_counts};
use crate::control::grant::Grant;
use crate::limits;
use crate::link::TaggedTable;
use crate::table::{Action, Rule, Snapshot};

/// A choice of rules of the table.
#[derive(Debug)]
struct Wanted {
    search: Search,
    action: Option<&'static str>,
    after: Option<String>,
    limit: Option<usize>,
    /// Rights of the client, which sees no rules of others.
    grant: Arc<Grant>,
}

/// Rules that were selected.
struct Selected<'t> {
    /// Names of one page, sorted.
    names: Vec<&'t str>,
    /// Rules that match on all pages, and rules that the client may see.
    counts: [usize; 2],
}

impl Wanted {
    fn of(query: &Query<'_>, table: &Snapshot, grant: Arc<Grant>) -> Result<Wanted, ApiError> {
        Ok(Wanted {
            search: Search::of(query.get("search").unwrap_or_default(), table),
            action: query.one_of("action", Action::names())?,
            after: query.get("after").map(str::to_owned),
            limit: query.count("limit", usize::MAX)?,
            grant,
        })
    }

    fn matches(&self, name: &str, rule: &Rule) -> bool {
        self.search.matches(name, Some(rule))
            && self.action.is_none_or(|action| rule.action.as_str() == action)
    }

    /// Selects the names of rules, and counts those on all pages. Memory is taken for one page,
    /// however many rules there are.
    fn select<'t>(&self, table: &'t Snapshot) -> Selected<'t> {
        let (mut seen, mut matched) = (0, 0);
        let mut page: BinaryHeap<&str> = BinaryHeap::new();
        let mut all: Vec<&str> = Vec::new();
        for (name, rule) in table.iter().filter(|(name, _)| self.grant.covers(name)) {
            seen += 1;
            if !self.matches(name, rule) {
                continue;
            }
            matched += 1;
            if self.after.as_ref().is_some_and(|after| name <= &**after) {
                continue;
            }
            match self.limit {
                None => all.push(name),
                Some(limit) if page.len() < limit => page.push(name),
                Some(_) => {
                    if let Some(mut last) = page.peek_mut()
                        && name < *last
                    {
                        *last = name;
                    }
                }
            }
        }
        all.extend(page);
        all.sort_unstable();
        Selected { names: all, counts: [matched, seen] }
    }
}

pub(super) async fn answer(api: &Api, parts: &Parts, asker: &Asker) -> Result<Response, ApiError> {
    let query = Query::of(parts.uri.query(), &["search", "action", "after", "limit", "sort"])?;
    let current = api.current();
    if query.get("sort").is_some() {
        return in_order(api, &query, asker, current).await;
    }
    let wanted = Wanted::of(&query, &current.table, asker.grant.clone())?;
    let (counts, body) = if current.table.len() <= limits::LISTED_HERE_MAX {
        let Selected { names, counts } = wanted.select(&current.table);
        let mut text = Vec::new();
        // Writing to memory does not fail.
        let _ = write(&current.table, &names, &mut text);
        (counts, Body::from(text))
    } else {
        streamed(current.table.clone(), wanted).await?
    };
    let mut response = tagged(current.tag, body);
    tell_counts(&mut response, counts);
    Ok(response)
}

/// Lists the rules of the first hosts of an order.
async fn in_order(
    api: &Api,
    query: &Query<'_>,
    asker: &Asker,
    current: Arc<TaggedTable>,
) -> Result<Response, ApiError> {
    if query.get("after").is_some() {
        let message = "after: expected without sort, whose order changes all the time";
        return Err(ApiError::bad("query_invalid", message));
    }
    let order = HostOrder::of(query, asker.grant.clone())?;
    let order = order.with_action(query.one_of("action", Action::names())?);
    let (tag, shared) = (current.tag, api.sources.statistics.clone());
    let listed = tokio::task::spawn_blocking(move || {
        let chosen = order.choose(&shared, &current.table);
        let mut text = Vec::new();
        // Writing to memory does not fail.
        let _ = write(&current.table, &chosen.names, &mut text);
        (text, [chosen.matched, chosen.rules])
    });
    let (text, counts) =
        listed.await.map_err(|_| ApiError::busy("listing the rules was given up"))?;
    let mut response = tagged(tag, text);
    tell_counts(&mut response, counts);
    Ok(response)
}

/// Lists the rules from a thread that may take its time.
async fn streamed(table: Snapshot, wanted: Wanted) -> Result<([usize; 2], Body), ApiError> {
    let (told, count) = tokio::sync::oneshot::channel();
    let (pieces, body) = mpsc::channel::<io::Result<Bytes>>(4);
    tokio::task::spawn_blocking(move || {
        let Selected { names, counts } = wanted.select(&table);
        let _ = told.send(counts);
        let mut out = io::BufWriter::with_capacity(limits::LISTING_PIECE_BYTES, Pieces(pieces));
        // An error: the reader has gone.
        let _ = write(&table, &names, &mut out).and_then(|()| out.flush());
    });
    let counts = count.await.map_err(|_| ApiError::busy("listing the rules was given up"))?;
    Ok((counts, Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(body))))
}

/// Hands over what is written, and waits while the reader is slow.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Ok(Bytes::copy_from_slice(bytes));
        self.0.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(table: &Snapshot, names: &[&str], out: &mut impl Write) -> io::Result<()> {
    let mut separator = "{";
    for name in names {
        let Some(rule) = table.get(name) else { continue };
        out.write_all(separator.as_bytes())?;
        separator = ",";
        serde_json::to_writer(&mut *out, name)?;
        out.write_all(b":")?;
        serde_json::to_writer(&mut *out, &rule.to_json())?;
    }
    out.write_all(if separator == "{" { b"{}\n" } else { b"}\n" })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::table::{Names, edit};

    fn table(names: &[&str]) -> Snapshot {
        let rule = |name: &str| {
            let action = if name.starts_with('s') { "spin" } else { "unknown" };
            Rule::from_json(name, &json!([action, {}, false]), &mut Names::default())
                .expect("a rule")
        };
        let edits = names.iter().map(|name| ((*name).to_owned(), Some(rule(name)))).collect();
        edit(&Snapshot::default(), edits).expect("a table")
    }

    fn listed(table: &Snapshot, query: &str) -> (Vec<String>, usize) {
        let query = Query::of(Some(query), &["search", "action", "after", "limit"]);
        let grant = Arc::new(Grant::EVERYTHING);
        let wanted = Wanted::of(&query.expect("a query"), table, grant).expect("a query");
        let Selected { names, counts: [matched, _] } = wanted.select(table);
        let mut text = Vec::new();
        write(table, &names, &mut text).expect("memory");
        let value: Value = serde_json::from_slice(&text).expect("JSON");
        (value.as_object().expect("an object").keys().cloned().collect(), matched)
    }

    #[test]
    fn pages_follow_each_other_in_order() {
        let table = table(&["b.com", "a.com", "s1.org", "s2.org", "c.com", "http://a.com"]);
        assert_eq!(
            listed(&table, "").0,
            ["a.com", "b.com", "c.com", "http://a.com", "s1.org", "s2.org"]
        );
        assert_eq!(listed(&table, "limit=2"), (vec!["a.com".into(), "b.com".into()], 6));
        assert_eq!(listed(&table, "limit=2&after=b.com").0, ["c.com", "http://a.com"]);
        assert_eq!(
            listed(&table, "search=A.COM"),
            (vec!["a.com".into(), "http://a.com".into()], 2)
        );
        assert_eq!(listed(&table, "action=spin&limit=1"), (vec!["s1.org".into()], 2));
        assert_eq!(listed(&table, "limit=0"), (vec![], 6));
        assert_eq!(listed(&table, "after=zzz"), (vec![], 6));
    }
}
