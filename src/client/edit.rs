//! Changes that are made only while the table is still the one that was read. If another change
//! came in between, the change is planned anew.

use std::time::{Duration, Instant};

use hyper::StatusCode;

use super::failure::{Failure, RequestError};
use super::request::{Api, Ask, Fetched};

/// A change that was planned, and the daemon's answer to it.
pub struct Edited<T> {
    /// Result of the last plan.
    pub planned: T,
    /// The answer; `None` if there was nothing to change.
    pub answer: Option<Fetched>,
}

/// Reads `target`, and sends the request that `plan` makes of the answer, if it makes one. Tries
/// again for some time, because the table's ETag changes with every change of any host.
pub async fn edit<T>(
    api: &Api,
    target: &str,
    try_for: Duration,
    plan: impl Fn(&Fetched) -> Result<(T, Option<Ask>), Failure>,
) -> Result<Edited<T>, Failure> {
    let began = Instant::now();
    loop {
        let found = api.fetch(Ask::get(target)).await?;
        let (planned, ask) = plan(&found)?;
        let Some(ask) = ask else { return Ok(Edited { planned, answer: None }) };
        match api.fetch(Ask { if_match: found.etag, ..ask }).await {
            Ok(answer) => return Ok(Edited { planned, answer: Some(answer) }),
            Err(RequestError::Refused { status: StatusCode::PRECONDITION_FAILED, .. })
                if began.elapsed() < try_for => {}
            Err(error) => return Err(error.of_change()),
        }
    }
}
