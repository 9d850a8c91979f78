//! Unix sockets as numbers: each path has a number while a rule names it, and for a while after
//! that.
//!
//! Rules keep a [`UnixPath`], and so do pools while they have connections there. Everything else
//! keeps its number, [`UnixSocket`], and looks up the path to connect or to write it. The look-up
//! takes no lock. A number is never given to another path: when a path is forgotten and another one
//! gets its place, the round of that place is increased.
//!
//! [`prune`] forgets a path when it has found it unused twice in a row, and not at once, because
//! counters and log lines outlive rules and connections by seconds.

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

/// Number of a Unix socket's path. The order is that of the numbers, which does not change when
/// paths are forgotten.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UnixSocket {
    place: u32,
    /// Number of paths that had the place before.
    round: u32,
}

/// Path of a Unix socket, or `@` and its abstract name.
#[derive(Debug)]
pub struct UnixPath {
    text: Box<str>,
    socket: UnixSocket,
    /// Whether nothing used the path at the last [`prune`].
    is_unused: AtomicBool,
}

/// Reason for which a text names no Unix socket.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum PathError {
    /// The text is neither an absolute path nor an abstract name.
    Relative,
    /// The text has nothing behind the `@`, or names a folder.
    Empty,
    /// The text is too long for a socket address.
    Long,
    /// The text has a NUL or another control character.
    Control,
}

impl PathError {
    /// Returns the error as a part of a sentence about the given text.
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
    /// Returns the only `UnixPath` of this text, which is the part behind `unix:`.
    pub fn get(text: &str) -> Result<Arc<UnixPath>, PathError> {
        check(text)?;
        Ok(SOCKETS.get(text))
    }

    /// Returns the address of the socket.
    #[inline]
    pub fn address(&self) -> Address {
        Address::Unix(self.socket)
    }

    /// Returns the path, or `@` and the abstract name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the abstract name; `None` for a path.
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
        // In the socket address, a path has a NUL behind it. An abstract name has a NUL in front,
        // where the text has the `@`.
        _ if limits::UNIX_PATH_BYTES_MAX + usize::from(is_abstract) < text.len() => {
            Err(PathError::Long)
        }
        _ if text.contains(char::is_control) => Err(PathError::Control),
        _ => Ok(()),
    }
}

impl UnixSocket {
    /// Returns the path of the socket; `None`: the path is forgotten.
    pub fn path(self) -> Option<Arc<UnixPath>> {
        let path = SOCKETS.cell(self.place).load_full();
        path.filter(|path| path.socket == self)
    }

    /// Returns the number as one word, for counters.
    pub fn number(self) -> u64 {
        u64::from(self.round) << 32 | u64::from(self.place)
    }

    /// Returns the socket with this number.
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

/// Forgets the paths that were unused at the last call and are still unused. The code that makes
/// rules calls this from time to time.
pub fn prune() {
    SOCKETS.prune();
}

static SOCKETS: LazyLock<Sockets> = LazyLock::new(Sockets::default);

/// Table of all paths that have a number.
#[derive(Default)]
struct Sockets {
    /// Paths by place. Each page is twice as large as the one before, is made once, and never
    /// moves.
    pages: [OnceLock<Page>; PAGES],
    known: Mutex<Known>,
}

type Page = Box<[ArcSwapOption<UnixPath>]>;

/// Places on the first page.
const FIRST_PAGE: u64 = 64;
/// Number of pages: enough for every place of 32 bits.
const PAGES: usize = 27;

#[derive(Default)]
struct Known {
    paths: HashSet<ByText>,
    /// Numbers for places that are free again.
    free: Vec<UnixSocket>,
    places: u32,
}

/// Entry for a path, found by its text.
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
    /// Whether anything uses the path besides the table of paths, which has two references itself.
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
        // The path is used again, so it must be found unused twice more.
        drop(sockets.get("/a"));
        sockets.prune();
        assert!(is_known(first));
        sockets.prune();
        assert!(!is_known(first) && is_known(held));
        // Another path has its place now, under another number.
        let c = sockets.get("/c").socket;
        assert_eq!((c.place, c.round), (first.place, first.round + 1));
        assert!(is_known(c) && !is_known(first));
        assert!(b.text.ends_with('b'));
    }
}
