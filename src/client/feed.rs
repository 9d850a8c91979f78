//! The daemon's events as a stream that outlives the daemon. When the connection ends, it is opened
//! again, with growing pauses, and the reader gets a message.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::failure::RequestError;
use super::request::{Answer, Api, Ask};
use super::sse::{Event, Parser};

const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Most messages that are read ahead of the reader. Beyond that, the daemon has to wait, and drops
/// events if it must.
const NEWS_MAX: usize = 64;

/// Message of the feed to its reader.
#[derive(Debug)]
pub enum News {
    Event(Event),
    /// The connection ended, or could not be opened again; the next attempt comes after the pause.
    Lost {
        why: RequestError,
        pause: Duration,
    },
    /// The connection is open again.
    Back,
    /// The connection ended, and trying again can't help: this is the last message.
    Ended(RequestError),
}

/// Opens the stream; fails if that is not possible.
pub async fn open(api: &Api, query: &str) -> Result<mpsc::Receiver<News>, RequestError> {
    let target = format!("/events?{query}");
    let first = connect(api, &target).await?;
    let (news, receiver) = mpsc::channel(NEWS_MAX);
    let api = api.clone();
    tokio::spawn(async move {
        drop(follow(&api, &target, first, &news).await);
    });
    Ok(receiver)
}

async fn connect(api: &Api, target: &str) -> Result<Answer, RequestError> {
    // The daemon sends a comment every 15 s. If nothing comes for as long as an answer may take,
    // the daemon is gone.
    api.ask(Ask::get(target), "text/event-stream").await
}

/// The reader of the feed is gone.
struct Unheard;

async fn follow(
    api: &Api,
    target: &str,
    first: Answer,
    news: &mpsc::Sender<News>,
) -> Result<(), Unheard> {
    let tell = async |what| news.send(what).await.map_err(|_| Unheard);
    let mut answer = first;
    loop {
        let mut why = read(api, answer, news).await?;
        let mut pause = PAUSE_FIRST;
        answer = loop {
            if !why.is_passing() {
                return tell(News::Ended(why)).await;
            }
            tell(News::Lost { why, pause }).await?;
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            match connect(api, target).await {
                Ok(answer) => break answer,
                Err(error) => why = error,
            }
        };
        tell(News::Back).await?;
    }
}

/// Sends events to the reader until the connection ends. Returns why it ended.
async fn read(
    api: &Api,
    mut answer: Answer,
    news: &mpsc::Sender<News>,
) -> Result<RequestError, Unheard> {
    let mut parser = Parser::default();
    let mut events = Vec::new();
    loop {
        let piece = match answer.piece().await {
            Ok(Some(piece)) => piece,
            // A daemon that stops cuts its connections off.
            Ok(None) | Err(RequestError::CutOff { .. }) => {
                return Ok(RequestError::Ended { address: api.address().clone() });
            }
            Err(error) => return Ok(error),
        };
        if parser.take(&piece, |event| events.push(event)).is_err() {
            return Ok(RequestError::TooLong { address: api.address().clone() });
        }
        for event in events.drain(..) {
            news.send(News::Event(event)).await.map_err(|_| Unheard)?;
        }
    }
}
