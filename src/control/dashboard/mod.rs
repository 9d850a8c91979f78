//! The dashboard: one document with its style and script inside, and the header fields that are
//! sent with it. It uses only the management API at the same address, and no other host.
//!
//! Host names on the page come from any client that sets rules, so the page never treats them as
//! markup. The policy that is sent with it makes the browser enforce this: only this script and
//! this style run (by hash), nothing is loaded from elsewhere, no text becomes markup (Trusted
//! Types), and no other page may show it in a frame.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

const FRAME: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
/// The files are one module, so each may use what the others define.
const SCRIPT: &str = concat!(
    include_str!("wire.js"),
    include_str!("plot.js"),
    include_str!("overview.js"),
    include_str!("limits.js"),
    include_str!("rules.js"),
    include_str!("arguments.js"),
    include_str!("hosts.js"),
    include_str!("change.js"),
    include_str!("bulk.js"),
    include_str!("host.js"),
    include_str!("backend.js"),
    include_str!("view.js"),
    include_str!("start.js"),
);

static PAGE: LazyLock<String> = LazyLock::new(|| {
    // Each mark is searched once, before anything is put in: the style and the script are never
    // searched for marks.
    let (before, rest) = FRAME.split_once("{{style}}").unwrap_or((FRAME, ""));
    let (between, after) = rest.split_once("{{script}}").unwrap_or((rest, ""));
    [before, STYLE, between, SCRIPT, after].concat()
});

static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        source(SCRIPT),
        source(STYLE)
    )
});

/// Returns the whole document.
pub(super) fn page() -> &'static str {
    &PAGE
}

/// Header fields that the document is sent with, besides its length. The document holds no data, so
/// a browser may keep it. But the browser has to ask each time, because after an upgrade another
/// page comes from the same address.
pub(super) fn fields() -> [(&'static str, &'static str); 6] {
    [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Security-Policy", &POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cache-Control", "no-cache"),
    ]
}

/// Source of the policy for an inline text: its hash (CSP 3 §2.3.1).
fn source(text: &str) -> String {
    format!("'sha256-{}'", base64(&Sha256::digest(text)))
}

/// Encodes bytes in Base64 (RFC 4648 §4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let padded = [group, &[0; 2]].concat();
        let bits = u32::from_be_bytes([0, padded[0], padded[1], padded[2]]);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_whole() {
        let page = page();
        assert!(page.starts_with("<!doctype html>"), "{}", &page[..40]);
        assert!(page.ends_with("</html>\n"), "a mark for style or script is missing");
        assert_eq!(
            page.len(),
            FRAME.len() - "{{style}}{{script}}".len() + STYLE.len() + SCRIPT.len()
        );
        // A closing tag, or `<!--` in the script, would end its element early, so that the browser
        // would hash less than the whole text.
        assert!(!SCRIPT.contains("</script") && !SCRIPT.contains("<!--"));
        assert!(!STYLE.contains("</style"));
        // A browser converts CR LF to LF before it hashes.
        assert!(!page.contains('\r'));
    }

    #[test]
    fn nothing_comes_from_elsewhere_and_no_text_becomes_markup() {
        for foreign in ["src=", "@import", "//cdn", "https://www"] {
            assert!(!page().contains(foreign), "{foreign}");
        }
        for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!SCRIPT.contains(sink), "{sink}: texts only, by textContent");
        }
        for inline in [" onclick=", " style="] {
            assert!(!FRAME.contains(inline), "the policy forbids {inline}");
        }
    }

    #[test]
    fn the_policy_names_hashes() {
        // FIPS 180-2 B.1, "abc"
        assert_eq!(source("abc"), "'sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0='");
        assert_eq!(
            [base64(b""), base64(b"f"), base64(b"fo"), base64(b"foo")],
            ["", "Zg==", "Zm8=", "Zm9v"]
        );
        let (_, policy) = fields()[1];
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }
}
