//! The dashboard: one document with its style and script inside, and the fields it is sent with. It
//! needs nothing but the management API beside it, and no other host.
//!
//! Host names on it come from whoever sets rules, so it never makes markup of them, and the policy
//! sent with it has the browser hold to that: only this very script and style run (by hash),
//! nothing is loaded from elsewhere, no text becomes markup (Trusted Types), no page may frame it.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

const FRAME: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
/// One module, so each file may use what the others define.
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
    // One pass each: what is put in is not searched again.
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

/// The whole document.
pub(super) fn page() -> &'static str {
    &PAGE
}

/// The fields that it is sent with, besides its length. It holds no data, so it may be kept; but a
/// browser asks each time, because the next version's page comes from the same address.
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

/// An inline text as a source of the policy (CSP 3 §2.3.1).
fn source(text: &str) -> String {
    format!("'sha256-{}'", base64(&Sha256::digest(text)))
}

/// RFC 4648 §4.
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
        // Either would end its element early, and the hash would be of less than stands there.
        assert!(!SCRIPT.contains("</script") && !SCRIPT.contains("<!--"));
        assert!(!STYLE.contains("</style"));
        // A browser makes LF of CR LF before it hashes.
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
