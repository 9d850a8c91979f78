//! `top`: hosts, backends and what is wrong with them, live. This file owns the terminal. The state
//! is in `model`, the questions beside the stream of events are in `poll`, and the drawing is in
//! `draw`.

mod draw;
mod figures;
mod format;
mod model;
mod poll;

use std::io::{self, IsTerminal};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event as Input, KeyEventKind};
use ratatui::layout::Rect;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::events::print_each;
use super::failure::{Failure, RequestError};
use super::feed::{self, News};
use super::request::Api;
use draw::{Places, draw};
use model::{Answered, Flow, Screen, Wanted};

pub use model::{Condition, Sort};

/// Most inputs that wait to be handled; reading the terminal pauses until there is room.
const INPUTS_MAX: usize = 64;
/// Answers read ahead of the screen.
const ANSWERS_MAX: usize = 8;

/// Shows `hosts` hosts until the user quits; with `json`, prints a line each second instead.
pub async fn run(
    api: &Api,
    hosts: u32,
    sort: Sort,
    filter: Option<Condition>,
    json: bool,
) -> Result<(), Failure> {
    let query = format!("busiest={hosts}&only=traffic");
    if json && (sort != Sort::Requests || filter.is_some()) {
        let why = "top --json prints the busiest hosts; stats --json has --sort and --filter";
        return Err(Failure::Other(why.to_owned()));
    }
    if json {
        return print_each(api, &query, |event| match event.kind.as_str() {
            "traffic" => format!("{}\n", event.data.replace('\n', " ")),
            _ => String::new(),
        })
        .await;
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let why = "top needs a terminal; top --json prints a snapshot each second";
        return Err(Failure::Other(why.to_owned()));
    }
    // Connect before the terminal is taken over: an error is then printed as usual.
    let news = feed::open(api, &query).await?;
    let signals =
        TerminalSignals::new().map_err(|error| Failure::Other(format!("signals: {error}")))?;
    let mut screen = Screen::new(&api.address().to_string(), hosts);
    (screen.sort, screen.only) = (sort, filter);
    let (wanted, asked) = watch::channel(screen.wanted());
    let (teller, answers) = mpsc::channel(ANSWERS_MAX);
    tokio::spawn(poll::run(api.clone(), asked, teller));
    let mut view = View::open(screen, wanted).map_err(Failure::of_output)?;
    let done = view.show(news, answers, signals).await;
    // Restore the terminal before anything is printed on it.
    drop(view);
    done
}

/// Signals that ask the program to end, and must not leave the terminal in disorder.
struct TerminalSignals {
    terminate: Signal,
    hang_up: Signal,
    interrupt: Signal,
}

impl TerminalSignals {
    fn new() -> io::Result<TerminalSignals> {
        Ok(TerminalSignals {
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The terminal, while `top` owns it.
struct View {
    terminal: DefaultTerminal,
    screen: Screen,
    wanted: watch::Sender<Wanted>,
}

impl View {
    fn open(screen: Screen, wanted: watch::Sender<Wanted>) -> io::Result<View> {
        // `try_init` also restores the terminal on a panic.
        let terminal = ratatui::try_init().inspect_err(|_| {
            // The terminal may be half set up.
            let _ = ratatui::try_restore();
        })?;
        Ok(View { terminal, screen, wanted })
    }

    async fn show(
        &mut self,
        mut news: mpsc::Receiver<News>,
        mut answers: mpsc::Receiver<Answered>,
        mut signals: TerminalSignals,
    ) -> Result<(), Failure> {
        let mut inputs = inputs();
        loop {
            self.draw().map_err(Failure::of_output)?;
            tokio::select! {
                next = news.recv() => match next {
                    Some(news) => self.take(news)?,
                    None => return Ok(()),
                },
                Some(answered) = answers.recv() => self.screen.learn(answered),
                input = inputs.recv() => match input {
                    Some(Input::Key(key)) if key.kind != KeyEventKind::Release => {
                        if self.screen.key(key) == Flow::Quit {
                            return Ok(());
                        }
                        self.wanted.send_if_modified(|wanted| {
                            let now = self.screen.wanted();
                            let is_other = *wanted != now;
                            *wanted = now;
                            is_other
                        });
                    }
                    Some(_) => {}
                    // the terminal is gone
                    None => return Ok(()),
                },
                () = signals.any() => return Ok(()),
            }
        }
    }

    fn take(&mut self, news: News) -> Result<(), RequestError> {
        match news {
            News::Event(event) => self.screen.take(&event),
            News::Lost { why, .. } => self.screen.lost = Some(why.to_string()),
            News::Back => self.screen.lost = None,
            News::Ended(why) => return Err(why),
        }
        Ok(())
    }

    fn draw(&mut self) -> io::Result<()> {
        let size = self.terminal.size()?;
        let area = Rect::new(0, 0, size.width, size.height);
        let places = Places::of(area, self.screen.traffic.shards.len());
        self.screen.fit(places.rows());
        let screen = &self.screen;
        self.terminal.draw(|frame| draw(frame, screen))?;
        Ok(())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // If the terminal can't be restored, nothing can be done about it, and no message can be
        // shown.
        let _ = ratatui::try_restore();
    }
}

/// Reads keys and changes of the terminal's size. Reading blocks, so it has a thread of its own,
/// which ends with the program.
fn inputs() -> mpsc::Receiver<Input> {
    let (sender, receiver) = mpsc::channel(INPUTS_MAX);
    std::thread::spawn(move || {
        while let Ok(input) = event::read() {
            if sender.blocking_send(input).is_err() {
                return;
            }
        }
    });
    receiver
}
