//! Writes the table of arguments for the form of the dashboard: src/control/dashboard/arguments.js.

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use serde_json::json;

    use super::super::{ACTIONS, Argument, Takes};

    /// Kind of an argument's field.
    fn takes(argument: &Argument) -> &'static str {
        match &argument.takes {
            Takes::Truth => "truth",
            Takes::Seconds | Takes::SecondsWithin(_) => "seconds",
            Takes::Count => "count",
            Takes::Whole(_) => "whole",
            Takes::Status(_) => "status",
            Takes::OneOf(_) => "words",
            other => match other.to_string() {
                text if text.starts_with("a list of whole numbers") => "numbers",
                text if text.starts_with("a list of") => "texts",
                _ => "form",
            },
        }
    }

    fn script() -> String {
        let mut script =
            "// The arguments of each action, for the form. Written out of the table in \
                          src/rule_arguments.rs:\n// MANTRID_BLESS=1 cargo test rule_arguments\n\n\
                          const ARGUMENTS = {\n"
                .to_owned();
        for action in ACTIONS {
            let _ = writeln!(script, "  {}: [", action.name);
            for argument in action.arguments.iter().filter(|argument| !argument.is_obsolete) {
                let (name, required) = (argument.name, argument.is_required());
                let words = json!(argument.words());
                let (expects, fallback) = (argument.takes.to_string(), argument.default);
                let texts = [expects, fallback.to_owned(), argument.summary()];
                let [expects, fallback, hint] = texts.map(|text| json!(text));
                let _ = writeln!(
                    script,
                    "    {{ name: \"{name}\", takes: \"{}\", required: {required}, words: {words},\n      \
                     expects: {expects},\n      fallback: {fallback},\n      hint: {hint} }},",
                    takes(argument)
                );
            }
            script.push_str("  ],\n");
        }
        script + "};\n"
    }

    /// `MANTRID_BLESS=1 cargo test` writes the script.
    #[test]
    fn dashboard_has_the_table_of_arguments() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = path.join("src/control/dashboard/arguments.js");
        let expected = script();
        if std::env::var_os("MANTRID_BLESS").is_some() {
            std::fs::write(&path, &expected).expect("written");
        }
        let found = std::fs::read_to_string(&path).expect("the script");
        assert!(found == expected, "{} is old: MANTRID_BLESS=1 cargo test", path.display());
    }
}
