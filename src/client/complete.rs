//! Completions for shells. The script of a shell calls a hidden command of this program to ask what
//! may stand where TAB was pressed. So each shell offers the same: it comes from the one definition
//! of the command line, the table of rule arguments, and the names of hosts that the daemon has.

use std::any::TypeId;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, Command, ValueEnum};

use super::failure::Failure;
use super::print;
use super::request::{Api, Ask, encoded};
use super::top::{Condition, Sort};
use crate::rule_arguments::{self, ACTIONS, Argument};

/// Most names that are offered at once.
const OFFERED_MAX: usize = 200;
/// Longest time that somebody who pressed TAB waits for names.
const PATIENCE: Duration = Duration::from_secs(2);
/// Line that has the shell offer files.
const FILES: &str = "//";

/// A shell that completions are made for.
#[derive(Copy, Clone, PartialEq, Eq, Debug, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The script for a shell.
pub fn script(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => BASH,
        Shell::Zsh => ZSH,
        Shell::Fish => FISH,
    }
}

// Bash splits words at each = and :, and puts an offer behind the last of them.
const BASH: &str = r#"_mantrid_client() {
    local line="${COMP_LINE:0:COMP_POINT}" words word prefix
    read -ra words <<<"$line"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    word="${words[-1]}"
    prefix="${word%"${word##*[=:]}"}"
    COMPREPLY=()
    while IFS=$'\t' read -r word _; do
        case "$word" in
            //) compopt -o default ;;
            *) COMPREPLY+=("${word#"$prefix"}") ;;
        esac
    done < <(mantrid-client complete -- "${words[@]:1}" 2>/dev/null)
    [[ "${#COMPREPLY[@]}" -eq 1 && "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
    return 0
}
complete -F _mantrid_client mantrid-client
"#;

const ZSH: &str = r#"#compdef mantrid-client
_mantrid_client() {
    local line
    local -a lines values keys
    lines=(${(f)"$(mantrid-client complete -- "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)"})
    for line in $lines; do
        local text=${line%%$'\t'*} help=${line#*$'\t'}
        case $text in
            //) _files ;;
            *=) keys+=("${text//:/\\:}:$help") ;;
            *) values+=("${text//:/\\:}:$help") ;;
        esac
    done
    (( $#values )) && _describe -V 'mantrid-client' values
    (( $#keys )) && _describe -V 'mantrid-client' keys -S ''
}
if [[ $funcstack[1] == _mantrid-client ]]; then
    _mantrid_client "$@"
else
    compdef _mantrid_client mantrid-client
fi
"#;

const FISH: &str = r#"function __mantrid_client
    set -l words (commandline -opc)[2..-1]
    for line in (mantrid-client complete -- $words (commandline -ct) 2>/dev/null)
        switch $line
            case '//*'
                __fish_complete_path (commandline -ct)
            case '*'
                echo $line
        end
    end
end
complete -c mantrid-client -f -k -a '(__mantrid_client)'
"#;

/// A place of the command line, described by the words before it, as far as they decide what may
/// stand there.
struct Place<'d> {
    command: &'d Command,
    /// Words of the command that are neither options nor values of them.
    given: Vec<&'d str>,
    /// Option whose value stands at this place.
    option: Option<&'d Arg>,
    /// Whether a word `--` stands before the place.
    is_behind_dashes: bool,
    url: Option<&'d str>,
    socket: Option<&'d Path>,
}

/// Offer for a place.
#[derive(PartialEq, Eq, Debug)]
enum Offer {
    /// Words, each with its meaning.
    Words(Vec<(String, String)>),
    Host,
    File,
}

impl<'d> Place<'d> {
    /// Finds the place after these words of a command line.
    fn behind(definition: &'d Command, words: &'d [String]) -> Place<'d> {
        let mut place = Place {
            command: definition,
            given: Vec::new(),
            option: None,
            is_behind_dashes: false,
            url: None,
            socket: None,
        };
        words.iter().for_each(|word| place.pass(word));
        place
    }

    fn pass(&mut self, word: &'d str) {
        if let Some(option) = self.option.take() {
            return self.take_value(option, word);
        }
        if self.is_behind_dashes {
            return self.given.push(word);
        }
        match word.strip_prefix("--") {
            Some("") => self.is_behind_dashes = true,
            Some(name) => {
                let (name, value) =
                    name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value)));
                let Some(option) = self.long(name) else { return };
                match value {
                    Some(value) => self.take_value(option, value),
                    None if option.get_action().takes_values() => self.option = Some(option),
                    None => {}
                }
            }
            None if matches!(word, "-h" | "-V") => {}
            None => match self.command.find_subcommand(word).filter(|_| self.given.is_empty()) {
                Some(command) => self.command = command,
                None => self.given.push(word),
            },
        }
    }

    fn long(&self, name: &str) -> Option<&'d Arg> {
        self.command.get_arguments().find(|arg| arg.get_long() == Some(name))
    }

    fn take_value(&mut self, option: &Arg, value: &'d str) {
        match option.get_id().as_str() {
            "url" => self.url = Some(value),
            "socket" => self.socket = Some(Path::new(value)),
            _ => {}
        }
    }

    /// Returns the offer for a word that begins like this.
    fn offer(&self, current: &str) -> Offer {
        if let Some(option) = self.option {
            return self.values(option);
        }
        if let Some(name) = current.strip_prefix("--").filter(|_| !self.is_behind_dashes)
            && let Some((name, _)) = name.split_once('=')
        {
            let of_option = |(value, help)| (format!("--{name}={value}"), help);
            return match self.long(name).map(|option| self.values(option)) {
                Some(Offer::Words(values)) => {
                    Offer::Words(values.into_iter().map(of_option).collect())
                }
                _ => Offer::Words(Vec::new()),
            };
        }
        if current.starts_with('-') && !self.is_behind_dashes {
            let options = self.command.get_arguments().filter(|arg| !arg.is_hide_set());
            let options = options
                .filter_map(|arg| Some((format!("--{}", arg.get_long()?), help(arg.get_help()))));
            return Offer::Words(options.collect());
        }
        if self.given.is_empty() && self.command.has_subcommands() {
            let commands = self.command.get_subcommands().filter(|one| !one.is_hide_set());
            let commands = commands.map(|one| (one.get_name().to_owned(), help(one.get_about())));
            return Offer::Words(commands.collect());
        }
        let positionals: Vec<&Arg> = self.command.get_positionals().collect();
        let repeated = positionals.last().filter(|arg| matches!(arg.get_id().as_str(), "options"));
        match positionals.get(self.given.len()).or(repeated) {
            Some(arg) if arg.is_last_set() && !self.is_behind_dashes => Offer::Words(Vec::new()),
            Some(arg) => self.values(arg),
            None if self.is_behind_dashes => Offer::File,
            None => Offer::Words(Vec::new()),
        }
    }

    /// Values of an option or of a positional argument.
    fn values(&self, arg: &Arg) -> Offer {
        let words = |words: &[&str]| {
            Offer::Words(words.iter().map(|word| ((*word).to_owned(), String::new())).collect())
        };
        match arg.get_id().as_str() {
            "host" => return Offer::Host,
            "action" => return words(&ACTIONS.iter().map(|row| row.name).collect::<Vec<_>>()),
            "subdoms" => return words(&["true", "false"]),
            "options" => return Offer::Words(self.rule_arguments()),
            "sort" => return words(&Sort::words()),
            "filter" => return words(&Condition::words()),
            _ => {}
        }
        let possible = arg.get_possible_values();
        if !possible.is_empty() {
            let possible = possible.iter().filter(|value| !value.is_hide_set());
            let possible =
                possible.map(|value| (value.get_name().to_owned(), help(value.get_help())));
            return Offer::Words(possible.collect());
        }
        let is_path = arg.get_value_parser().type_id() == TypeId::of::<PathBuf>();
        if is_path || arg.is_last_set() { Offer::File } else { Offer::Words(Vec::new()) }
    }

    /// Arguments of the action on the line, except those that the line has already.
    fn rule_arguments(&self) -> Vec<(String, String)> {
        let row = self.given.get(1).and_then(|action| rule_arguments::action(action));
        let rows = row.map_or(ACTIONS, std::slice::from_ref).iter();
        let given = self.given.iter().filter_map(|word| word.split_once('=')).map(|(name, _)| name);
        let mut left_out: BTreeSet<&str> = given.collect();
        let mut offered = Vec::new();
        for argument in rows.flat_map(|row| row.arguments).filter(|one| !one.is_obsolete) {
            if left_out.insert(argument.name) {
                offered.extend(texts(argument).map(|text| (text, argument.summary())));
            }
        }
        offered
    }
}

/// An argument of a rule as it may be typed: with each word that it takes, or without its value.
fn texts(argument: &Argument) -> impl Iterator<Item = String> {
    let words = if argument.words().is_empty() { &[""] } else { argument.words() };
    words.iter().map(|word| format!("{}={word}", argument.name))
}

/// A meaning on one line.
fn help(text: Option<impl ToString>) -> String {
    let text = text.map(|text| text.to_string()).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Prints what may stand in the place of the last word, a line each: the text, a tab, and what it
/// means. `api` connects to the daemon by the address and socket on the line. Errors are not
/// printed, because they would tear the line that is being typed.
pub async fn complete(
    mut definition: Command,
    words: &[String],
    api: impl FnOnce(Option<&str>, Option<&Path>) -> Option<Api>,
) -> Result<(), Failure> {
    // Adds the options of all commands to each of them.
    definition.build();
    let Some((current, before)) = words.split_last() else { return Ok(()) };
    let place = Place::behind(&definition, before);
    let offered = match place.offer(current) {
        Offer::Words(words) => words,
        Offer::File => vec![(FILES.to_owned(), String::new())],
        Offer::Host => match api(place.url, place.socket) {
            Some(api) => hosts(&api, current).await,
            None => Vec::new(),
        },
    };
    let fits = |text: &str| text == FILES || text.starts_with(current.as_str());
    let mut lines = offered.iter().filter(|(text, _)| fits(text));
    super::print(|out| lines.try_for_each(|(text, help)| writeln!(out, "{text}\t{help}")))
}

/// Names of rules that begin like this.
async fn hosts(api: &Api, prefix: &str) -> Vec<(String, String)> {
    let mut target = format!("/hostname/?limit={OFFERED_MAX}");
    if let Some(before) = before(prefix) {
        target += &format!("&after={}", encoded(&before));
    }
    let ask = Ask { patience: PATIENCE, ..Ask::get(target) };
    let mut names = Vec::new();
    if let Ok(answer) = api.fetch(ask).await {
        // If the answer breaks off, the names from its beginning are still useful.
        let _ = print::entries(&answer.body, |host, rule| {
            names.push((print::plain(&host), print::action(&rule)));
        });
    }
    names
}

/// The name right before all names that begin with `prefix`, in the order of the daemon's lists.
fn before(prefix: &str) -> Option<String> {
    let mut bytes = prefix.as_bytes().to_vec();
    let last = bytes.pop().filter(u8::is_ascii_graphic)?;
    bytes.push(last - 1);
    // `~` comes after every character of a name.
    bytes.push(b'~');
    String::from_utf8(bytes).ok()
}

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

    /// Splits at single spaces; a line that ends with one has an empty last word.
    fn offer(line: &str) -> Offer {
        let mut definition = super::super::definition();
        definition.build();
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (current, before) = words.split_last().expect("a word");
        let place = Place::behind(&definition, before);
        match place.offer(current) {
            Offer::Words(words) => {
                let fitting = words.into_iter().filter(|(text, _)| text.starts_with(current));
                Offer::Words(fitting.map(|(text, _)| (text, String::new())).collect())
            }
            other => other,
        }
    }

    #[track_caller]
    fn expect(line: &str, expected: &[&str]) {
        let words = expected.iter().map(|word| ((*word).to_owned(), String::new()));
        assert_eq!(offer(line), Offer::Words(words.collect()), "{line}");
    }

    #[test]
    fn commands_and_options_are_offered_where_they_may_stand() {
        expect("l", &["list", "load"]);
        expect("comp", &["completions"]);
        expect("backend ", &["list", "move", "drain", "remove", "help"]);
        expect("--url http://a:1 backend dr", &["drain"]);
        expect("list --se", &["--search"]);
        expect("list --json --fi", &["--filter"]);
        expect("backend drain --un", &["--undo"]);
        expect("set a.com --dry", &["--dry-run"]);
        expect("help ba", &["backend"]);
        expect("restart a.com --res", &["--restore"]);
        expect("nonsense ", &[]);
    }

    #[test]
    fn values_are_offered_behind_their_options() {
        expect("which --scheme ht", &["http", "https"]);
        expect("which --scheme=t", &["--scheme=tcp", "--scheme=tls"]);
        expect("list --filter ", &["failing", "held", "down", "limited"]);
        expect("top --filter d", &["down"]);
        expect("stats --sort l", &["latency", "limited"]);
        expect("list --action s", &["spin", "static"]);
        expect("completions ", &["bash", "zsh", "fish"]);
        assert_eq!(offer("--socket /ru"), Offer::File);
        assert_eq!(offer("load table"), Offer::File);
        assert_eq!(offer("man "), Offer::File);
        assert_eq!(offer("restart a.com -- system"), Offer::File);
        assert_eq!(offer("restart a.com -- ls --"), Offer::File);
        expect("list --limit ", &[]);
    }

    #[test]
    fn words_of_set_are_offered_one_after_the_other() {
        assert_eq!(offer("set "), Offer::Host);
        assert_eq!(offer("--json set sho"), Offer::Host);
        expect("set a.com pro", &["proxy"]);
        expect("set -a.com --dry-run pro", &["proxy"]);
        expect("set a.com proxy ", &["true", "false"]);
        expect("set a.com proxy true back", &["backends=", "backup="]);
        expect("set a.com proxy true backends=b:1 back", &["backup="]);
        expect(
            "set a.com redirect true co",
            &["code=301", "code=302", "code=303", "code=307", "code=308"],
        );
        expect("set a.com redirect true back", &[]);
        expect("set a.com proxy true algorithm=l", &["algorithm=least_connections"]);
        for line in ["flip s", "which ", "spin --timeout 3 ", "stats ", "delete --wait x"] {
            assert_eq!(offer(line), Offer::Host, "{line}");
        }
        expect("flip a.com ", &[]);
    }

    #[test]
    fn address_of_the_line_is_where_names_are_asked_for() {
        let definition = super::super::definition();
        let words = ["--url", "http://a:1", "set"].map(str::to_owned);
        assert_eq!(Place::behind(&definition, &words).url, Some("http://a:1"));
        let words = ["set", "--socket=/a b"].map(str::to_owned);
        let mut definition = definition;
        definition.build();
        assert_eq!(Place::behind(&definition, &words).socket, Some(Path::new("/a b")));
    }
}
