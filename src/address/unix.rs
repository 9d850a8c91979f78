//! Unix sockets as numbers: each path has one while a rule names it, and for a while after that.
//!
//! Rules hold on to a [`UnixPath`], and so do pools while they have connections there; all others
//! have its number, [`UnixSocket`], and look the path up where they need it: to connect, and to
//! write it down. That takes no lock. A number is never given to another path: with the place of a
//! path that was forgotten goes its round.
//!
//! Paths that nothing holds on to are forgotten by [`prune`], the second time that it finds them
//! so: counters and log lines outlive rules and connections by seconds.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;
use socket2::SockAddr;

use super::Address;
use crate::limits;

/// The number of a Unix socket's path. The order is that of the numbers, which stays what it is
/// while paths are forgotten.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UnixSocket {
    place: u32,
    /// How many paths had the place before.
    round: u32,
}

/// The path of a Unix socket, or `@` and its abstract name.
#[derive(Debug)]
pub struct UnixPath {
    text: Box<str>,
    socket: UnixSocket,
    /// Nothing held on to it when it was looked at last.
    is_unused: AtomicBool,
}

/// Why a text names no Unix socket.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum PathError {
    /// Neither a path from the root nor an abstract name.
    Relative,
    /// Nothing behind the `@`, or a folder.
    Empty,
    /// Longer than an address has room for.
    Long,
    /// A NUL or another control character.
    Control,
}

impl PathError {
    /// The error as a part of a sentence about what was given.
    pub fn sentence(self) -> &'static str {
        match self {
            PathError::Relative => "a Unix socket is \"unix:/path\" or \"unix:@abstract-name\"",
            PathError::Empty => "the name of the Unix socket is missing",
            PathError::Long => "the path of a Unix socket has at most 107 bytes",
            PathError::Control => "the path of a Unix socket holds no NUL and no control character",
        }
    }
}

impl UnixPath {
    /// The one `UnixPath` of this text, which is what stands behind `unix:`.
    pub fn get(text: &str) -> Result<Arc<UnixPath>, PathError> {
        check(text)?;
        Ok(SOCKETS.get(text))
    }

    /// Address of the socket.
    #[inline]
    pub fn address(&self) -> Address {
        Address::Unix(self.socket)
    }

    /// The path, or `@` and the abstract name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The abstract name; `None` for a path.
    pub fn abstract_name(&self) -> Option<&str> {
        self.text.strip_prefix('@')
    }

    pub(super) fn to_system(&self) -> Option<SockAddr> {
        match self.abstract_name() {
            Some(name) => SockAddr::unix(format!("\0{name}")).ok(),
            None => SockAddr::unix(&*self.text).ok(),
        }
    }
}

impl PartialEq for UnixPath {
    fn eq(&self, other: &UnixPath) -> bool {
        self.text == other.text
    }
}

fn check(text: &str) -> Result<(), PathError> {
    let is_abstract = text.starts_with('@');
    match text {
        _ if !is_abstract && !text.starts_with('/') => Err(PathError::Relative),
        _ if text == "@" || (!is_abstract && text.ends_with('/')) => Err(PathError::Empty),
        // Behind a path comes a NUL, in front of an abstract name, where the `@` stands here.
        _ if limits::UNIX_PATH_BYTES_MAX + usize::from(is_abstract) < text.len() => {
            Err(PathError::Long)
        }
        _ if text.contains(char::is_control) => Err(PathError::Control),
        _ => Ok(()),
    }
}

impl UnixSocket {
    /// The path of the socket; `None`: it is forgotten.
    pub fn path(self) -> Option<Arc<UnixPath>> {
        let path = SOCKETS.cell(self.place).load_full();
        path.filter(|path| path.socket == self)
    }

    /// The number as one word, for counters.
    pub fn number(self) -> u64 {
        u64::from(self.round) << 32 | u64::from(self.place)
    }

    /// The socket with this number.
    pub fn from_number(number: u64) -> UnixSocket {
        UnixSocket { place: number as u32, round: (number >> 32) as u32 }
    }
}

impl fmt::Display for UnixSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path() {
            Some(path) => write!(f, "{}{}", Address::UNIX, path.text),
            None => write!(f, "{}(forgotten)", Address::UNIX),
        }
    }
}

/// Forgets the paths that nothing held on to when this was called last, and nothing does now.
/// Called now and then by whoever makes rules.
pub fn prune() {
    SOCKETS.prune();
}

static SOCKETS: LazyLock<Sockets> = LazyLock::new(Sockets::default);

/// Every path there is a number for.
#[derive(Default)]
struct Sockets {
    /// Paths by place. Pages double in size and never move: they are made once and then only read.
    pages: [OnceLock<Page>; PAGES],
    known: Mutex<Known>,
}

type Page = Box<[ArcSwapOption<UnixPath>]>;

/// Places on the first page.
const FIRST_PAGE: u64 = 64;
/// Enough for every number of 32 bits.
const PAGES: usize = 27;

#[derive(Default)]
struct Known {
    paths: HashSet<ByText>,
    /// Numbers whose places are free.
    free: Vec<UnixSocket>,
    places: u32,
}

/// A path that is found by its text.
struct ByText(Arc<UnixPath>);

impl Borrow<str> for ByText {
    fn borrow(&self) -> &str {
        &self.0.text
    }
}

impl Hash for ByText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.text.hash(state);
    }
}

impl PartialEq for ByText {
    fn eq(&self, other: &ByText) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for ByText {}

impl ByText {
    /// Whether anything holds on to the path besides the table of paths, which does so twice.
    fn is_held(&self) -> bool {
        2 < Arc::strong_count(&self.0)
    }
}

impl Sockets {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cell(&self, place: u32) -> &ArcSwapOption<UnixPath> {
        let place = u64::from(place) + FIRST_PAGE;
        let page = (place / FIRST_PAGE).ilog2();
        let from = FIRST_PAGE << page;
        let cells = self.pages[page as usize]
            .get_or_init(|| (0..from).map(|_| ArcSwapOption::empty()).collect());
        &cells[(place - from) as usize]
    }

    fn get(&self, text: &str) -> Arc<UnixPath> {
        let mut known = self.lock();
        if let Some(ByText(path)) = known.paths.get(text) {
            path.is_unused.store(false, Relaxed);
            return path.clone();
        }
        let socket = known.free.pop().unwrap_or_else(|| {
            known.places += 1;
            UnixSocket { place: known.places - 1, round: 0 }
        });
        let is_unused = AtomicBool::new(false);
        let path = Arc::new(UnixPath { text: text.into(), socket, is_unused });
        self.cell(socket.place).store(Some(path.clone()));
        known.paths.insert(ByText(path.clone()));
        path
    }

    fn prune(&self) {
        let mut known = self.lock();
        let is_over = |path: &ByText| {
            let was_unused = path.0.is_unused.swap(!path.is_held(), Relaxed);
            was_unused && !path.is_held()
        };
        let Known { paths, free, .. } = &mut *known;
        for ByText(path) in paths.extract_if(is_over) {
            self.cell(path.socket.place).store(None);
            let round = path.socket.round.wrapping_add(1);
            free.push(UnixSocket { round, ..path.socket });
        }
        let count = paths.len();
        paths.shrink_to(2 * count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_checked() {
        let longest = limits::UNIX_PATH_BYTES_MAX;
        let long = |first: &str, bytes: usize| format!("{first}{}", "a".repeat(bytes - 1));
        for (text, expected) in [
            ("/run/app.sock", Ok(())),
            ("/a,b c", Ok(())),
            ("@app", Ok(())),
            ("@/run/app", Ok(())),
            (&long("/", longest), Ok(())),
            (&long("@", longest + 1), Ok(())),
            ("", Err(PathError::Relative)),
            ("run/app.sock", Err(PathError::Relative)),
            ("./app.sock", Err(PathError::Relative)),
            ("80", Err(PathError::Relative)),
            ("/", Err(PathError::Empty)),
            ("/run/", Err(PathError::Empty)),
            ("@", Err(PathError::Empty)),
            (&long("/", longest + 1), Err(PathError::Long)),
            (&long("@", longest + 2), Err(PathError::Long)),
            ("/a\0b", Err(PathError::Control)),
            ("@a\0", Err(PathError::Control)),
            ("/a\nb", Err(PathError::Control)),
        ] {
            assert_eq!(check(text), expected, "{text:?}");
            if expected.is_ok() {
                assert!(UnixPath::get(text).expect("a path").to_system().is_some(), "{text}");
            }
        }
    }

    #[test]
    fn each_path_has_one_number() {
        let sockets = Sockets::default();
        let a = sockets.get("/a");
        assert!(Arc::ptr_eq(&a, &sockets.get("/a")));
        let b = sockets.get("/b");
        assert_ne!(a.socket, b.socket);
        assert_eq!(UnixSocket::from_number(b.socket.number()), b.socket);
    }

    #[test]
    fn places_are_found_on_every_page() {
        let sockets = Sockets::default();
        let paths: Vec<Arc<UnixPath>> =
            (0..1000).map(|number| sockets.get(&format!("/{number}"))).collect();
        for path in &paths {
            let found = sockets.cell(path.socket.place).load_full();
            assert!(Arc::ptr_eq(&found.expect("a path"), path));
        }
    }

    #[test]
    fn path_is_forgotten_the_second_time_that_nothing_holds_it() {
        let sockets = Sockets::default();
        let is_known = |socket: UnixSocket| {
            sockets.cell(socket.place).load().as_ref().is_some_and(|path| path.socket == socket)
        };
        let [a, b] = ["/a", "/b"].map(|text| sockets.get(text));
        let [first, held] = [a.socket, b.socket];
        drop(a);
        sockets.prune();
        assert!(is_known(first));
        // It is used again: the count begins anew.
        drop(sockets.get("/a"));
        sockets.prune();
        assert!(is_known(first));
        sockets.prune();
        assert!(!is_known(first) && is_known(held));
        // Its place is another's now, under another number.
        let c = sockets.get("/c").socket;
        assert_eq!((c.place, c.round), (first.place, first.round + 1));
        assert!(is_known(c) && !is_known(first));
        assert!(b.text.ends_with('b'));
    }
}
