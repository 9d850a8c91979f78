//! Completions for shells: those that clap makes of the definition, with the names of hosts, which
//! only the daemon knows. The shell asks for them by a command that no help lists.

use std::io::Write;
use std::time::Duration;

use clap_complete::Shell;

use super::arguments;
use super::failure::Failure;
use super::print;
use super::request::{Api, Ask, encoded};

/// Names that are offered at once.
const OFFERED_MAX: usize = 200;
/// How long somebody who pressed TAB waits for names.
const PATIENCE: Duration = Duration::from_secs(2);

/// Prints names of rules that begin like this. What goes wrong is not told: the line that is being
/// typed would be torn.
pub async fn hosts(api: &Api, prefix: &str) -> Result<(), Failure> {
    let mut target = format!("/hostname/?limit={OFFERED_MAX}");
    if let Some(before) = before(prefix) {
        target += &format!("&after={}", encoded(&before));
    }
    let ask = Ask { patience: PATIENCE, ..Ask::get(target) };
    let Ok(answer) = api.fetch(ask).await else { return Ok(()) };
    let mut names = Vec::new();
    let read = print::entries(&answer.body, |host, _| names.push(host));
    if read.is_err() {
        return Ok(());
    }
    // A colon parts words in some shells.
    names.retain(|name| name.starts_with(prefix) && !name.contains(':'));
    super::print(|out| names.iter().try_for_each(|name| writeln!(out, "{name}")))
}

/// A name right before all that begin with `prefix`, in the order of the daemon's lists.
fn before(prefix: &str) -> Option<String> {
    let mut bytes = prefix.as_bytes().to_vec();
    let last = bytes.pop().filter(u8::is_ascii_graphic)?;
    bytes.push(last - 1);
    // Behind every character of a name.
    bytes.push(b'~');
    String::from_utf8(bytes).ok()
}

/// The script for a shell.
pub fn script(shell: Shell, definition: clap::Command) -> String {
    let with_host: Vec<String> = definition
        .get_subcommands()
        .filter(|one| one.get_positionals().next().is_some_and(|first| first.get_id() == "host"))
        .map(|one| one.get_name().to_owned())
        .collect();
    let mut text = Vec::new();
    let mut command = arguments::completed(definition);
    clap_complete::generate(shell, &mut command, "mantrid-client", &mut text);
    // clap_complete 4.6 takes the hyphen of a program's name for the step to a command where it
    // lists the commands' options, and not where it looks for them: bash would find none.
    let text = String::from_utf8_lossy(&text).replace("mantrid__subcmd__client", "mantrid__client");
    match shell {
        Shell::Bash => text + &BASH.replace("COMMANDS", &with_host.join("|")),
        Shell::Zsh => {
            let text = text.replace(
                "host -- The host name:_default'",
                "host -- The host name:_mantrid_client_hosts'",
            );
            text.replacen(
                "autoload -U is-at-least\n",
                &format!("autoload -U is-at-least\n{ZSH}"),
                1,
            )
        }
        Shell::Fish => text + &FISH.replace("COMMANDS", &with_host.join(" ")),
        _ => text,
    }
}

const BASH: &str = r#"
_mantrid_client_with_hosts() {
    local current="${COMP_WORDS[COMP_CWORD]}" command="" given=0 index=1 word
    local -a at=()
    _mantrid__client "$@"
    while ((index < COMP_CWORD)); do
        word="${COMP_WORDS[index]}"
        case "$word" in
            --url | --socket) at+=("$word" "${COMP_WORDS[index + 1]}") && ((index += 1)) ;;
            -*) ;;
            *) if [[ -z "$command" ]]; then command="$word"; else ((given += 1)); fi ;;
        esac
        ((index += 1))
    done
    case "$command" in
        COMMANDS)
            if ((given == 0)) && [[ "$current" != -* ]]; then
                COMPREPLY+=($(mantrid-client "${at[@]}" complete-hosts "$current" 2>/dev/null))
            fi
            ;;
    esac
}

if [[ "${BASH_VERSINFO[0]}" -eq 4 && "${BASH_VERSINFO[1]}" -ge 4 || "${BASH_VERSINFO[0]}" -gt 4 ]]; then
    complete -F _mantrid_client_with_hosts -o nosort -o bashdefault -o default mantrid-client
else
    complete -F _mantrid_client_with_hosts -o bashdefault -o default mantrid-client
fi
"#;

const ZSH: &str = r#"
_mantrid_client_hosts() {
    local -a hosts
    hosts=(${(f)"$(mantrid-client complete-hosts "$PREFIX" 2>/dev/null)"})
    compadd -a hosts
}
"#;

const FISH: &str = r#"
complete -c mantrid-client -n "__fish_seen_subcommand_from COMMANDS" -f -a "(mantrid-client complete-hosts (commandline -ct) 2>/dev/null)"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_asked_for_from_the_first_that_fits() {
        for (prefix, first, others) in [
            ("a.com", "a.com", &["a.coa", "a.col", "a.col-z", "a.c", "a"][..]),
            ("b", "b", &["a", "azzz", "a_"]),
        ] {
            let before = before(prefix).expect("a name");
            assert!(*before < *first, "{before}");
            assert!(others.iter().all(|other| **other < *before), "{before}");
        }
        assert_eq!(before(""), None);
    }

    #[test]
    fn scripts_know_commands_with_hosts() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell, super::super::definition());
            assert!(script.contains("complete-hosts"), "{shell}");
            assert!(!script.contains("COMMANDS"), "{shell}");
        }
        let zsh = script(Shell::Zsh, super::super::definition());
        assert!(5 < zsh.matches(":_mantrid_client_hosts'").count(), "{zsh}");
        assert!(script(Shell::Bash, super::super::definition()).contains("|spin|flip|"));
    }
}
