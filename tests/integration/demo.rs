//! `mantrid --demo`: what it prints can be done, and does what it says.

use std::net::ToSocketAddrs;

use crate::daemon::Daemon;
use crate::script::Connection;

/// One printed `curl` command, understood as far as we print such.
#[derive(Debug, Default)]
struct Curl {
    method: Option<String>,
    fields: Vec<String>,
    data: Option<String>,
    url: Option<String>,
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
                "-d" | "--data" => curl.data = Some(words.next()?),
                "-I" | "--head" => curl.method = Some("HEAD".to_owned()),
                "-o" | "-w" | "-m" => drop(words.next()),
                "#" | "|" | ";" | "&&" | "→" | "->" => break,
                option if option.starts_with('-') => (),
                url if curl.url.is_none() => curl.url = Some(url.to_owned()),
                _ => break,
            }
        }
        curl.url.is_some().then_some(curl)
    }

    /// Does it; returns the status.
    fn run(&self) -> u16 {
        let url = self.url.as_deref().expect("a URL");
        let rest = url.strip_prefix("http://").unwrap_or(url);
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let with_port =
            if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
        let mut addresses = with_port.to_socket_addrs().expect("the address of a printed URL");
        let address = addresses.find(|address| address.is_ipv4()).expect("an IPv4 address");
        let method = match (&self.method, &self.data) {
            (Some(method), _) => method,
            (None, Some(_)) => "POST",
            (None, None) => "GET",
        };
        let mut request =
            format!("{method} {} HTTP/1.1\r\n", if path.is_empty() { "/" } else { path });
        let names_host =
            self.fields.iter().any(|field| field.to_ascii_lowercase().starts_with("host:"));
        if !names_host {
            request.push_str(&format!("Host: {authority}\r\n"));
        }
        for field in &self.fields {
            request.push_str(&format!("{field}\r\n"));
        }
        if let Some(data) = &self.data {
            request.push_str(&format!("Content-Length: {}\r\n", data.len()));
        }
        request.push_str("\r\n");
        request.push_str(self.data.as_deref().unwrap_or_default());
        let mut client = Connection::client(address);
        client.send(request);
        client.expect_head().status()
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

#[test]
fn what_it_prints_works() {
    let mut daemon = Daemon::demo(&["-o", "bind=127.0.0.1:0", "-o", "bind_management=127.0.0.1:0"]);
    let printed = format!("{}\n{}", daemon.out.text(), daemon.log.text());
    let commands: Vec<Curl> = printed.lines().filter_map(Curl::parse).collect();
    assert!(!commands.is_empty(), "no command is printed:\n{printed}");
    let mut statuses = Vec::new();
    for command in &commands {
        let status = command.run();
        assert!(status < 600, "{command:?}: {status}");
        statuses.push(status);
    }
    assert!(statuses.contains(&200), "none of them gets to a backend: {statuses:?}\n{printed}");
    assert!(!statuses.contains(&502), "a demo backend can't be reached: {statuses:?}\n{printed}");
    daemon.terminate();
    daemon.expect_clean_exit();
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
