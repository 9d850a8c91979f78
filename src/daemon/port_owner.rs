//! Finds the process that listens on a port, for the message that the port is in use. It reads
//! /proc, as far as this process may.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const LISTEN: &str = "0A";
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// Returns the process that listens on `port`, such as `nginx (pid 812)`. If the process can't be
/// seen, returns its user.
pub(super) fn of_port(port: u16) -> Option<String> {
    let texts = TABLES.iter().filter_map(|path| fs::read_to_string(path).ok());
    let (inode, uid) = texts.into_iter().find_map(|text| socket_of(&text, port))?;
    let process = process_of(&inode);
    Some(process.unwrap_or_else(|| format!("a process of user {uid}")))
}

/// Whether a process is known to listen on `port`.
pub(super) fn is_process(port: u16) -> bool {
    let sockets = TABLES.iter().filter_map(|path| fs::read_to_string(path).ok());
    let mut inodes = sockets.filter_map(|text| socket_of(&text, port));
    inodes.any(|(inode, _)| process_of(&inode).is_some())
}

/// Whether the process `pid`, or a daemon before it that is still draining, listens on `port`. If
/// /proc does not show the sockets of that process, a listener of the same user that can't be seen
/// either counts as it.
pub(super) fn is_of(port: u16, pid: &str) -> bool {
    let process = Path::new("/proc").join(pid);
    let name = || fs::read_to_string(process.join("comm")).ok();
    let user = fs::metadata(&process).map(|found| found.uid().to_string()).ok();
    let texts = TABLES.iter().filter_map(|path| fs::read_to_string(path).ok());
    let sockets: Vec<_> = texts.flat_map(|text| sockets_of(&text, port)).collect();
    sockets.iter().any(|(inode, uid)| match find_process(inode) {
        Some(found) => found == process || fs::read_to_string(found.join("comm")).ok() == name(),
        None => Some(uid) == user.as_ref() && fs::read_dir(process.join("fd")).is_err(),
    })
}

/// Returns inode and user of a listening socket, from the table of proc_net_tcp(5).
fn socket_of(table: &str, port: u16) -> Option<(String, String)> {
    sockets_of(table, port).into_iter().next()
}

fn sockets_of(table: &str, port: u16) -> Vec<(String, String)> {
    let suffix = format!(":{port:04X}");
    let sockets = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, state, _, _, _, uid, _, inode, ..] = fields[..] else { return None };
        let is_it = local.ends_with(&suffix) && state == LISTEN;
        is_it.then(|| (inode.to_owned(), uid.to_owned()))
    });
    sockets.collect()
}

fn process_of(inode: &str) -> Option<String> {
    let process = find_process(inode)?;
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    let pid = process.file_name().unwrap_or_default();
    Some(format!("{} (pid {})", name.trim(), pid.to_string_lossy()))
}

/// Returns the folder in /proc of the process that holds a socket.
fn find_process(inode: &str) -> Option<PathBuf> {
    let link = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    for process in processes {
        // Entries whose name is not a number are no processes, or `self`, which is a second name of
        // one.
        if !process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        // The files of other users' processes can't be read.
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = files
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok())
            .any(|target| target.as_os_str() == link.as_str());
        if holds {
            return Some(process.path());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when \
             retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000 33 0 7 1\n\
             1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 33 0 4242 1";
        assert_eq!(socket_of(table, 8080), Some(("4242".to_owned(), "33".to_owned())));
        assert_eq!(socket_of(table, 80), None);
    }
}
