//! `mantrid --demo`: what it prints can be done, and does what it says.

use std::net::ToSocketAddrs;

use crate::daemon::Daemon;
use crate::message::Answer;
use crate::script::Connection;

/// One printed `curl` command, understood as far as we print such.
#[derive(Debug, Default)]
struct Curl {
    method: Option<String>,
    fields: Vec<String>,
    data: Option<Vec<u8>>,
    url: Option<String>,
    /// It ends with `&`: the others go on meanwhile.
    in_background: bool,
}

impl Curl {
    fn parse(line: &str) -> Option<Curl> {
        let start = line.find("curl ")?;
        let mut words = split(&line[start..]).into_iter().skip(1);
        let mut curl = Curl::default();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-H" | "--header" => curl.fields.push(words.next()?),
                "-X" | "--request" => curl.method = Some(words.next()?),
                "-d" | "--data" | "--data-binary" => curl.data = Some(content(&words.next()?)),
                "--json" => {
                    curl.data = Some(content(&words.next()?));
                    curl.fields.push("Content-Type: application/json".to_owned());
                }
                "-I" | "--head" => curl.method = Some("HEAD".to_owned()),
                "-o" | "-w" | "-m" => drop(words.next()),
                "&" => curl.in_background = true,
                "#" | "|" | ";" | "&&" | "→" | "->" => break,
                option if option.starts_with('-') => (),
                url if curl.url.is_none() => curl.url = Some(url.to_owned()),
                _ => break,
            }
        }
        curl.url.is_some().then_some(curl)
    }

    /// Does it, and takes the whole answer.
    fn run(&self) -> Answer {
        self.begin().expect_answer()
    }

    /// Sends it.
    fn begin(&self) -> Connection {
        let url = self.url.as_deref().expect("a URL");
        let rest = url.strip_prefix("http://").unwrap_or(url);
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let with_port =
            if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
        #[allow(clippy::disallowed_methods)] // as curl would; nobody waits for this thread
        let mut addresses = with_port.to_socket_addrs().expect("the address of a printed URL");
        let address = addresses.find(|address| address.is_ipv4()).expect("an IPv4 address");
        let method = match (&self.method, &self.data) {
            (Some(method), _) => method,
            (None, Some(_)) => "POST",
            (None, None) => "GET",
        };
        let mut request =
            format!("{method} {} HTTP/1.1\r\n", if path.is_empty() { "/" } else { path });
        if self.host().is_none() {
            request.push_str(&format!("Host: {authority}\r\n"));
        }
        for field in &self.fields {
            request.push_str(&format!("{field}\r\n"));
        }
        if let Some(data) = &self.data {
            request.push_str(&format!("Content-Length: {}\r\n", data.len()));
        }
        request.push_str("\r\n");
        let mut client = Connection::client(address);
        client.send(request);
        client.send(self.data.as_deref().unwrap_or_default());
        client
    }

    fn host(&self) -> Option<&str> {
        self.fields.iter().find_map(|field| field.strip_prefix("Host: "))
    }
}

/// Words as a shell has them, with both kinds of quotes.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// What `-d` and `--data-binary` send: the text itself, or a file of the folder one tries this in.
fn content(word: &str) -> Vec<u8> {
    match word.strip_prefix('@') {
        Some(file) => std::fs::read(file).expect("a file that a printed command names"),
        None => word.as_bytes().to_vec(),
    }
}

/// What each printed command says it does.
fn expected_status(command: &Curl) -> u16 {
    match command.host() {
        None | Some("also.example" | "test.example" | "wait.example") => 200,
        Some("old.example") => 302,
        Some("secret.example") => 403,
        Some("down.example") => 502,
        Some("who.example") => 503,
        Some("tea.example") => 418,
        Some(host) => panic!("{host}: what should it answer? {command:?}"),
    }
}

#[test]
fn commands_that_the_demo_prints_work() {
    let mut daemon = Daemon::demo(&["-o", "bind=127.0.0.1:0", "-o", "bind_management=127.0.0.1:0"]);
    let printed = daemon.expect_printed("nothing is left behind");
    let commands: Vec<Curl> = printed.lines().filter_map(Curl::parse).collect();
    assert!(commands.len() > 5, "few commands are printed:\n{printed}");
    let mut waiting = Vec::new();
    for command in &commands {
        if command.in_background {
            waiting.push((command, command.begin()));
            continue;
        }
        let answer = command.run();
        assert_eq!(answer.status(), expected_status(command), "{command:?}: {}", answer.head.start);
        if command.data.is_some() && command.method.is_none() {
            assert_eq!(command.data.as_ref(), Some(&answer.body), "a body, there and back");
        }
    }
    assert_eq!(waiting.len(), 1, "one command waits for the next");
    for (command, mut client) in waiting {
        assert_eq!(client.expect_answer().status(), expected_status(command), "{command:?}");
    }
    let log = daemon.log.text();
    let state = log.split_whitespace().find(|word| word.ends_with("/state.json"));
    let state = std::path::PathBuf::from(state.expect("the state file is named in the log"));
    assert!(state.exists());
    daemon.signal("INT");
    daemon.expect_clean_exit();
    assert!(!state.exists(), "{} is left behind", state.display());
}

#[test]
fn localhost_is_proxied() {
    let daemon = Daemon::demo(&["-o", "bind=127.0.0.1:0", "-o", "bind_management=127.0.0.1:0"]);
    for _ in 0..4 {
        let answer = daemon.connect().exchange("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert!(!answer.body.is_empty());
    }
}
