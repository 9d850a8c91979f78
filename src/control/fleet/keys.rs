//! Names of a fleet's keys in etcd. Pure.

/// Keys of one fleet.
#[derive(Clone, Debug)]
pub(in crate::control) struct Keys {
    prefix: String,
}

/// A key below `live/`, as a watch brings it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::control) enum LiveKey<'k> {
    Id,
    Head,
    /// Entry of the log with its sequence.
    Log(u64),
    Base,
    /// A node by its name.
    Node(&'k str),
    Ask,
    /// The node that the other nodes let go first.
    Turn,
    /// An answer that backends are drained: nonce of the question, and node.
    Drained(&'k str, &'k str),
    /// A node that sees a host idle: host and node.
    Idle(&'k str, &'k str),
    /// A lock, or a key of a newer version.
    Other,
}

impl Keys {
    pub(in crate::control) fn new(fleet: &str) -> Keys {
        Keys { prefix: format!("/mantrid/{fleet}/") }
    }

    pub(in crate::control) fn live(&self) -> String {
        self.of("live/")
    }

    pub(in crate::control) fn id(&self) -> String {
        self.of("live/id")
    }

    pub(in crate::control) fn head(&self) -> String {
        self.of("live/head")
    }

    pub(in crate::control) fn log(&self, sequence: u64) -> String {
        format!("{}live/log/{sequence:020}", self.prefix)
    }

    pub(in crate::control) fn all_log(&self) -> String {
        self.of("live/log/")
    }

    pub(in crate::control) fn base(&self) -> String {
        self.of("live/base")
    }

    pub(in crate::control) fn node(&self, name: &str) -> String {
        format!("{}live/nodes/{name}", self.prefix)
    }

    pub(in crate::control) fn nodes(&self) -> String {
        self.of("live/nodes/")
    }

    pub(in crate::control) fn ask(&self) -> String {
        self.of("live/ask")
    }

    pub(in crate::control) fn turn(&self) -> String {
        self.of("live/turn")
    }

    pub(in crate::control) fn drained(&self, nonce: &str, node: &str) -> String {
        format!("{}live/drained/{nonce}/{node}", self.prefix)
    }

    pub(in crate::control) fn all_drained(&self, nonce: &str) -> String {
        format!("{}live/drained/{nonce}/", self.prefix)
    }

    pub(in crate::control) fn wake(&self, host: &str) -> String {
        format!("{}live/wake/{host}", self.prefix)
    }

    pub(in crate::control) fn idle(&self, host: &str, node: &str) -> String {
        format!("{}live/idle/{host}/{node}", self.prefix)
    }

    pub(in crate::control) fn all_idle(&self) -> String {
        self.of("live/idle/")
    }

    pub(in crate::control) fn fold_lock(&self) -> String {
        self.of("live/lock/fold")
    }

    pub(in crate::control) fn chunk(&self, nonce: &str, index: usize) -> String {
        format!("{}bulk/chunk/{nonce}/{index:06}", self.prefix)
    }

    /// The nonce of chunks that are written for the entry with this sequence, or for one a little
    /// later.
    pub(in crate::control) fn chunks_nonce(sequence: u64, nonce: &str) -> String {
        format!("{sequence:020}-{nonce}")
    }

    /// The first key of chunks for this sequence.
    pub(in crate::control) fn chunks_from(&self, sequence: u64) -> String {
        format!("{}bulk/chunk/{sequence:020}-", self.prefix)
    }

    pub(in crate::control) fn all_chunks(&self) -> String {
        self.of("bulk/chunk/")
    }

    pub(in crate::control) fn base_piece(&self, name: &str, index: usize) -> String {
        format!("{}bulk/base/{name}/{index:06}", self.prefix)
    }

    pub(in crate::control) fn base_pieces(&self, name: &str) -> String {
        format!("{}bulk/base/{name}/", self.prefix)
    }

    pub(in crate::control) fn all_bases(&self) -> String {
        self.of("bulk/base/")
    }

    fn of(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    /// Reads a key; `None`: it is not a live key of this fleet.
    pub(in crate::control) fn live_key<'k>(&self, key: &'k [u8]) -> Option<LiveKey<'k>> {
        let key = std::str::from_utf8(key).ok()?;
        let key = key.strip_prefix(self.prefix.as_str())?.strip_prefix("live/")?;
        Some(match key {
            "id" => LiveKey::Id,
            "head" => LiveKey::Head,
            "base" => LiveKey::Base,
            "ask" => LiveKey::Ask,
            "turn" => LiveKey::Turn,
            key => match key.split_once('/') {
                Some(("log", number)) => number.parse().map_or(LiveKey::Other, LiveKey::Log),
                Some(("nodes", name)) => LiveKey::Node(name),
                Some(("drained", rest)) => match rest.split_once('/') {
                    Some((nonce, node)) => LiveKey::Drained(nonce, node),
                    None => LiveKey::Other,
                },
                Some(("idle", rest)) => match rest.rsplit_once('/') {
                    Some((host, node)) => LiveKey::Idle(host, node),
                    None => LiveKey::Other,
                },
                _ => LiveKey::Other,
            },
        })
    }

    /// The set that a piece belongs to: a nonce, or the name of a base.
    pub(in crate::control) fn set_of_piece<'k>(&self, key: &'k [u8]) -> Option<&'k str> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(self.prefix.as_str())?;
        let mut words = key.strip_prefix("bulk/")?.split('/');
        words.nth(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let keys = Keys::new("prod");
        assert_eq!(keys.log(12), "/mantrid/prod/live/log/00000000000000000012");
        let read = |key: &str| keys.live_key(key.as_bytes()).map(|key| format!("{key:?}"));
        assert_eq!(keys.live_key(keys.id().as_bytes()), Some(LiveKey::Id));
        assert_eq!(keys.live_key(keys.head().as_bytes()), Some(LiveKey::Head));
        assert_eq!(keys.live_key(keys.base().as_bytes()), Some(LiveKey::Base));
        assert_eq!(keys.live_key(keys.ask().as_bytes()), Some(LiveKey::Ask));
        assert_eq!(keys.live_key(keys.log(12).as_bytes()), Some(LiveKey::Log(12)));
        assert_eq!(keys.live_key(keys.node("a").as_bytes()), Some(LiveKey::Node("a")));
        let idle = keys.idle("http://a.com", "n");
        assert_eq!(keys.live_key(idle.as_bytes()), Some(LiveKey::Idle("http://a.com", "n")));
        assert_eq!(read("/mantrid/prod/live/new/thing"), Some("Other".to_owned()));
        assert_eq!(read("/mantrid/production/live/id"), None);
        assert_eq!(keys.set_of_piece(keys.chunk("n-1", 3).as_bytes()), Some("n-1"));
        assert_eq!(keys.set_of_piece(keys.base_piece("7-x", 3).as_bytes()), Some("7-x"));
    }
}
