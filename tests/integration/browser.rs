//! Drives a headless Chromium over its DevTools protocol: JSON messages ended by NUL, over two
//! named pipes, so neither a port nor a websocket is needed. One browser and one page per test;
//! both, and all they wrote, go with the `Page`. Waiting is done by the page itself, which tells
//! when what is waited for is there.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A browser starts slowly where its CPUs are shared.
const PATIENCE: Duration = Duration::from_secs(60);

const OPTIONS: &[&str] = &[
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-breakpad",
    "--disable-crash-reporter",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--window-size=1440,900",
];

/// What came from the browser and waits to be asked for.
#[derive(Default)]
struct Mailbox {
    answers: HashMap<u64, Value>,
    /// Uncaught errors of scripts and violations of the policy.
    complaints: Vec<String>,
    next: u64,
    ended: bool,
}

type Shared = Arc<(Mutex<Mailbox>, Condvar)>;

/// A page in a browser of its own.
pub struct Page {
    child: Child,
    commands: Mutex<File>,
    mailbox: Shared,
    /// Goes with the browser.
    _folder: TempDir,
    target: String,
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|file| file.is_file())
}

impl Page {
    /// Opens an address; `None`, and a line that says so, where there is no browser.
    #[track_caller]
    pub fn open(url: &str) -> Option<Page> {
        let Some(program) = program() else {
            // Not by a macro: of a test that passes, what those print is never seen.
            drop(writeln!(std::io::stderr(), "skipped: no chromium in PATH for the dashboard"));
            return None;
        };
        let mut page = Page::start(&program);
        let target = page.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = page.call("Target.attachToTarget", attach);
        page.target = attached["sessionId"].as_str().expect("an attached page").to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            page.call(&format!("{domain}.enable"), json!({}));
        }
        page.navigate(url);
        Some(page)
    }

    fn start(program: &Path) -> Page {
        let folder = tempfile::Builder::new().prefix("mantrid-browser-").tempdir();
        let folder = folder.expect("a folder");
        let pipe = |name: &str| {
            let path = folder.path().join(name);
            mkfifo(&path, Mode::S_IRWXU).expect("a named pipe");
            path
        };
        let (to, from) = (pipe("to"), pipe("from"));
        // The browser wants them as descriptors 3 and 4; a shell can do that without unsafe code.
        let script = r#"to=$1 from=$2; shift 2; exec "$@" 3<"$to" 4>"$from""#;
        let child = Command::new("sh")
            .args(["-c", script, "sh"])
            .args([&to, &from])
            .arg(program)
            .args(OPTIONS)
            .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
            .env("HOME", folder.path())
            .env("XDG_CONFIG_HOME", folder.path())
            .env("XDG_CACHE_HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell that starts the browser");
        let commands = File::options().write(true).open(&to).expect("the pipe to the browser");
        let answers = File::open(&from).expect("the pipe from the browser");
        let mailbox = Shared::default();
        let into = Arc::clone(&mailbox);
        std::thread::spawn(move || collect(answers, &into));
        let commands = Mutex::new(commands);
        Page { child, commands, mailbox, _folder: folder, target: String::new() }
    }

    // ---- the protocol

    /// Calls a method and returns its result.
    #[track_caller]
    pub fn call(&self, method: &str, parameters: Value) -> Value {
        self.try_call(method, parameters)
            .unwrap_or_else(|error| panic!("the browser refuses {method}: {error}"))
    }

    #[track_caller]
    fn try_call(&self, method: &str, parameters: Value) -> Result<Value, String> {
        let id = self.send(method, parameters);
        let (mailbox, more) = &*self.mailbox;
        let waiting = |mailbox: &mut Mailbox| !mailbox.ended && !mailbox.answers.contains_key(&id);
        let mailbox = mailbox.lock().expect("the mailbox");
        let (mut mailbox, _) =
            more.wait_timeout_while(mailbox, PATIENCE, waiting).expect("answers");
        let ended = mailbox.ended;
        let answer = mailbox.answers.remove(&id);
        drop(mailbox);
        let mut answer = answer.unwrap_or_else(|| panic!("{method}: no answer, ended: {ended}"));
        match answer.get("error") {
            Some(error) => Err(error["message"].as_str().unwrap_or_default().to_owned()),
            None => Ok(answer["result"].take()),
        }
    }

    fn send(&self, method: &str, parameters: Value) -> u64 {
        let id = {
            let mut mailbox = self.mailbox.0.lock().expect("the mailbox");
            mailbox.next += 1;
            mailbox.next
        };
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if !self.target.is_empty() {
            message["sessionId"] = json!(self.target);
        }
        let text = format!("{message}\0");
        // A browser that has gone is told by the answer that never comes.
        drop(self.commands.lock().expect("the pipe").write_all(text.as_bytes()));
        id
    }

    // ---- looking

    #[track_caller]
    pub fn navigate(&self, url: &str) {
        let answer = self.call("Page.navigate", json!({ "url": url }));
        assert_eq!(answer.get("errorText"), None, "{url} can't be opened");
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'");
    }

    /// The value of an expression in the page.
    #[track_caller]
    pub fn evaluate(&self, expression: &str) -> Value {
        self.try_evaluate(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    #[track_caller]
    fn try_evaluate(&self, expression: &str) -> Result<Value, String> {
        let parameters =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let mut answer = self.try_call("Runtime.evaluate", parameters)?;
        match answer.get("exceptionDetails") {
            Some(details) => panic!("{expression}: {details}"),
            None => Ok(answer["result"]["value"].take()),
        }
    }

    /// Waits until an expression is true. The page looks after each frame that it draws.
    #[track_caller]
    pub fn wait(&self, expression: &str) {
        let promise = format!(
            "new Promise((resolve) => {{
                const until = Date.now() + {};
                const look = () => {{
                    let holds = false;
                    try {{ holds = Boolean({expression}); }} catch {{ /* not yet there */ }}
                    if (holds || Date.now() > until) resolve(holds);
                    else requestAnimationFrame(look);
                }};
                look();
            }})",
            PATIENCE.as_millis() / 2
        );
        let until = Instant::now() + PATIENCE;
        loop {
            match self.try_evaluate(&promise) {
                Ok(Value::Bool(true)) => return,
                // The page went away under the promise, for one that comes.
                Err(_) if Instant::now() < until => {}
                found => {
                    let page = self.evaluate("document.body.innerText");
                    let page = page.as_str().unwrap_or_default();
                    panic!("never true: {expression} ({found:?})\n--- the page\n{page}");
                }
            }
        }
    }

    /// Waits until an element is there, visible, and has this text in it.
    #[track_caller]
    pub fn wait_text(&self, selector: &str, text: &str) {
        let (selector, text) = (quoted(selector), quoted(text));
        self.wait(&format!("document.querySelector({selector}).innerText.includes({text})"));
    }

    /// Fails if a script failed or something that the policy forbids was tried.
    #[track_caller]
    pub fn expect_no_complaints(&self) {
        let mailbox = self.mailbox.0.lock().expect("the mailbox");
        assert!(mailbox.complaints.is_empty(), "{:#?}", mailbox.complaints);
    }

    // ---- doing

    /// Clicks into the middle of an element, once it is there and nothing covers it.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let place = format!(
            "(() => {{
                const node = document.querySelector({});
                if (!node || node.disabled) return null;
                node.scrollIntoView({{ block: 'center', behavior: 'instant' }});
                const box = node.getBoundingClientRect();
                const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
                return node.contains(document.elementFromPoint(x, y)) ? {{ x, y }} : null;
            }})()",
            quoted(selector)
        );
        self.wait(&place);
        let at = self.evaluate(&place);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({
                "type": kind, "x": at["x"], "y": at["y"], "button": "left", "clickCount": 1
            });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Types into what has the focus.
    #[track_caller]
    pub fn type_text(&self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Presses a key by its name in the DOM: `Enter`, `/`, `ArrowDown`.
    #[track_caller]
    pub fn press(&self, key: &str) {
        let (code, number, text) = match key {
            "Enter" => ("Enter", 13, "\r"),
            "Tab" => ("Tab", 9, ""),
            "Escape" => ("Escape", 27, ""),
            "Home" => ("Home", 36, ""),
            "End" => ("End", 35, ""),
            "ArrowUp" => ("ArrowUp", 38, ""),
            "ArrowDown" => ("ArrowDown", 40, ""),
            " " => ("Space", 32, " "),
            "/" => ("Slash", 191, "/"),
            other => panic!("add the key {other:?} to this list"),
        };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({
                "type": kind, "key": key, "code": code, "text": text,
                "windowsVirtualKeyCode": number
            });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Presses a key until an expression is true: a keyboard has no other way to a place.
    #[track_caller]
    pub fn press_until(&self, key: &str, expression: &str) {
        for _ in 0..200 {
            if self.evaluate(expression) == Value::Bool(true) {
                return;
            }
            self.press(key);
        }
        panic!("{key} does not lead to {expression}");
    }

    /// Chooses an entry of a list, as a user's choice is told to the page.
    #[track_caller]
    pub fn choose(&self, selector: &str, value: &str) {
        self.evaluate(&format!(
            "(() => {{
                const list = document.querySelector({});
                list.value = {};
                list.dispatchEvent(new Event('change', {{ bubbles: true }}));
            }})()",
            quoted(selector),
            quoted(value)
        ));
    }

    pub fn set_viewport(&self, width: u32, height: u32, scale: f64) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600
        });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        self.wait(&format!("innerWidth === {width}"));
    }

    pub fn set_dark(&self, is_dark: bool) {
        let value = if is_dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": value }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
        self.wait(&format!("matchMedia('(prefers-color-scheme: {value})').matches"));
    }

    /// What is in the viewport, as a PNG.
    pub fn screenshot(&self) -> Vec<u8> {
        let answer = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        from_base64(answer["data"].as_str().expect("a picture"))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.target.clear();
        self.send("Browser.close", json!({}));
        // Its pipe closes when it has ended, and only then is its folder ours again.
        let (mailbox, more) = &*self.mailbox;
        if let Ok(mailbox) = mailbox.lock() {
            drop(more.wait_timeout_while(mailbox, PATIENCE, |mailbox| !mailbox.ended));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A string as one of JavaScript.
pub fn quoted(text: &str) -> String {
    json!(text).to_string()
}

fn collect(answers: File, into: &Shared) {
    let (mailbox, more) = &**into;
    let mut answers = BufReader::new(answers);
    let mut message = Vec::new();
    while matches!(answers.read_until(0, &mut message), Ok(count) if count > 0) {
        let text = message.strip_suffix(b"\0").unwrap_or(&message);
        let value: Value = serde_json::from_slice(text).expect("JSON from the browser");
        let mut mailbox = mailbox.lock().expect("the mailbox");
        if let Some(id) = value["id"].as_u64() {
            mailbox.answers.insert(id, value);
        } else {
            mailbox.complaints.extend(complaint(&value));
        }
        more.notify_all();
        message.clear();
    }
    mailbox.lock().expect("the mailbox").ended = true;
    more.notify_all();
}

/// What in an event of the browser is an error of the page. A refused request is none.
fn complaint(event: &Value) -> Option<String> {
    let parameters = &event["params"];
    let is_error = match event["method"].as_str()? {
        "Runtime.exceptionThrown" => true,
        "Log.entryAdded" => {
            let entry = &parameters["entry"];
            entry["level"] == "error" && entry["source"] != "network"
        }
        _ => false,
    };
    is_error.then(|| parameters.to_string())
}

/// RFC 4648 §4.
fn from_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for digit in text.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
