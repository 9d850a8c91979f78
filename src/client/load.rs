//! `load FILE`: sends the rules of a file unchanged, in one request. The daemon checks them, and
//! takes all or none. A dry run prints the difference.

use std::io::{self, Cursor, Read};
use std::time::{Duration, Instant};

use hyper::Method;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::arguments::Load;
use super::check::judge;
use super::diff::Difference;
use super::failure::{Failure, RequestError, say};
use super::request::{Api, Ask, Fetched, Sending};
use super::table_file::TableFile;
use super::{lines, print_json};

/// Timeout for the answer: the daemon first checks up to a million rules and syncs them to disk.
const PATIENCE: Duration = Duration::from_secs(600);

/// Sends the file.
pub async fn load(api: &Api, load: &Load, json: bool) -> Result<(), Failure> {
    let unsent = |error| Failure::Other(format!("{error}; nothing was sent"));
    let file = TableFile::open(&load.file, load.merge).map_err(unsent)?;
    let (name, rules, bytes) = (file.name.clone(), file.rules(), file.bytes());
    let began = Instant::now();
    let mut text = None;
    let reader: Box<dyn Read + Send> = match load.edit.dry_run {
        true => {
            let kept = text.insert(file.into_text().map_err(unsent)?);
            Box::new(Cursor::new(kept.clone()))
        }
        false => file.into_reader().map_err(unsent)?,
    };
    let answer = send(api, load, reader, bytes).await?;
    let took = began.elapsed().as_secs_f64();
    let nouns = match (load.merge, rules) {
        (true, 1) => "change",
        (true, _) => "changes",
        (false, 1) => "rule",
        (false, _) => "rules",
    };
    let done = if load.edit.dry_run { "checked; nothing was changed" } else { "loaded" };
    match text {
        _ if json => print_json(&answer.body)?,
        Some(text) => show_difference(api, &name, &text, load.merge).await?,
        None => {}
    }
    say(&format!("{rules} {nouns} of {name} {done}, in {took:.1} s"));
    Ok(())
}

async fn show_difference(api: &Api, name: &str, text: &[u8], merge: bool) -> Result<(), Failure> {
    let judged = judge(name, text, merge)?;
    if let Some(wrong) = judged.wrong.first() {
        // The daemon has accepted the rules. It may be newer than this client.
        say(&format!("the difference is not shown, as this client would refuse {wrong}"));
        return Ok(());
    }
    let difference = Difference::with_daemon(api, judged, merge).await?;
    lines(difference.lines())
}

async fn send(
    api: &Api,
    load: &Load,
    reader: Box<dyn Read + Send>,
    bytes: u64,
) -> Result<Fetched, Failure> {
    let progress = progress(bytes);
    let reader = Watched { reader, left: bytes, progress: progress.clone() };
    let method = if load.merge { Method::PATCH } else { Method::PUT };
    let query = if load.edit.dry_run { "?dry_run=1" } else { "" };
    let answer = api
        .fetch(Ask {
            method,
            target: format!("/hostname/{query}"),
            body: Some(Sending::new(reader, bytes)),
            if_match: load.edit.if_match.clone(),
            patience: PATIENCE,
        })
        .await;
    progress.finish_and_clear();
    answer.map_err(RequestError::of_change)
}

/// Progress bar on standard error, if that is a terminal.
fn progress(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {elapsed} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message("sending");
    bar
}

/// Moves the bar as the file is read, and says afterwards what the daemon is doing.
struct Watched<R> {
    reader: R,
    left: u64,
    progress: ProgressBar,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(room)?;
        self.progress.inc(count as u64);
        self.left = self.left.saturating_sub(count as u64);
        if self.left == 0 {
            self.progress.set_message("checking and writing…");
            self.progress.enable_steady_tick(Duration::from_millis(100));
        }
        Ok(count)
    }
}
