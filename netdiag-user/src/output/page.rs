//! The page of a diagnosis on a terminal: headings, paragraphs, lists, code.

use super::style::{Look, Tone, wrap};

/// Characters with what they are for.
type Inline = Vec<(char, Tone)>;

/// Renders the Markdown that pages use; ends in a newline.
pub fn page(markdown: &str, look: &Look) -> String {
    let mut page = Page { look, text: String::new(), block: String::new(), indent: 0, hang: 0 };
    let mut in_code = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            page.flush();
            in_code = !in_code;
        } else if in_code {
            let code = look.paint(Tone::Code, &look.safe(line));
            page.line(&format!("    {code}"));
        } else {
            page.prose(line);
        }
    }
    page.flush();
    page.text
}

struct Page<'a> {
    look: &'a Look,
    text: String,
    /// Lines of the paragraph or list entry that is not written yet.
    block: String,
    indent: usize,
    /// Further columns of its second and later lines.
    hang: usize,
}

impl Page<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn prose(&mut self, line: &str) {
        let trimmed = line.trim();
        if trimmed.is_empty() {
            self.flush();
            self.line("");
        } else if let Some(title) = trimmed.strip_prefix("# ").or_else(|| trimmed.strip_prefix("## ")) {
            self.flush();
            let plain: String = inline(title).into_iter().map(|(c, _)| c).collect();
            for line in wrap(&self.look.safe(&plain), self.look.columns(), self.look.columns()) {
                let line = self.look.paint(Tone::Strong, &line);
                self.line(&line);
            }
        } else if let Some(marker) = list_marker(trimmed) {
            self.flush();
            self.indent = line.len() - line.trim_start().len();
            self.hang = marker;
            self.block = trimmed.to_owned();
        } else {
            if !self.block.is_empty() {
                self.block.push(' ');
            }
            self.block.push_str(trimmed);
        }
    }

    fn flush(&mut self) {
        let block = std::mem::take(&mut self.block);
        let (indent, hang) = (std::mem::take(&mut self.indent), std::mem::take(&mut self.hang));
        if block.is_empty() {
            return;
        }
        let mut inline = inline(&block);
        if self.look.style == super::Style::Plain {
            inline = quoted(&inline);
        }
        let mut line: Inline = Vec::new();
        let mut width = self.look.columns().saturating_sub(indent);
        let mut pad = indent;
        for word in inline.split(|(c, _)| *c == ' ').filter(|word| !word.is_empty()) {
            if !line.is_empty() && line.len() + 1 + word.len() > width {
                self.painted(pad, &line);
                line.clear();
                pad = indent + hang;
                width = self.look.columns().saturating_sub(pad);
            }
            if let (Some((_, before)), Some((_, after))) = (line.last(), word.first()) {
                line.push((' ', if before == after { *before } else { Tone::Plain }));
            }
            line.extend_from_slice(word);
        }
        self.painted(pad, &line);
    }

    fn painted(&mut self, pad: usize, line: &[(char, Tone)]) {
        let mut text = " ".repeat(pad);
        for run in line.chunk_by(|(_, a), (_, b)| a == b) {
            let plain: String = run.iter().map(|(c, _)| c).collect();
            text.push_str(&self.look.paint(run[0].1, &self.look.safe(&plain)));
        }
        self.line(&text);
    }
}

/// Without colour, code keeps its quotes.
fn quoted(inline: &[(char, Tone)]) -> Inline {
    let mut quoted = Vec::with_capacity(inline.len());
    for run in inline.chunk_by(|(_, a), (_, b)| a == b) {
        let code = run[0].1 == Tone::Code;
        quoted.extend(code.then_some(('`', Tone::Code)));
        quoted.extend_from_slice(run);
        quoted.extend(code.then_some(('`', Tone::Code)));
    }
    quoted
}

/// Columns of `- ` or `12. `.
fn list_marker(line: &str) -> Option<usize> {
    if line.starts_with("- ") || line.starts_with("* ") {
        return Some(2);
    }
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0 && line[digits..].starts_with(". ")).then_some(digits + 2)
}

/// `code`, **strong** and *emphasis*; a mark without its partner stands for itself.
fn inline(text: &str) -> Inline {
    let mut out: Inline = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let marks = [("`", Tone::Code), ("**", Tone::Strong), ("*", Tone::Strong)];
        let marked = marks.into_iter().find_map(|(mark, tone)| {
            let inside = rest.strip_prefix(mark)?;
            let end = inside.find(mark)?;
            let fits = end > 0 && (tone == Tone::Code || !inside.starts_with(' '));
            fits.then(|| (&inside[..end], &inside[end + mark.len()..], tone))
        });
        match marked {
            Some((inside, after, Tone::Code)) => {
                out.extend(inside.chars().map(|c| (c, Tone::Code)));
                rest = after;
            }
            Some((inside, after, tone)) => {
                out.extend(
                    inline(inside).into_iter().map(|(c, t)| (c, if t == Tone::Plain { tone } else { t })),
                );
                rest = after;
            }
            None => {
                out.push((c, Tone::Plain));
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Style;

    const PAGE: &str = "# a.b: a title\n\nFirst line of `nft -a` and\n**more** of *it*.\n\n## What\n- one that is \
                        long enough to wrap around\n  and goes on\n2. two * three\n```\nnft  list   # x\n```\n";

    #[test]
    fn plain() {
        let look = Look { width: 40, ..Look::default() };
        insta::assert_snapshot!(page(PAGE, &look), @r"
    a.b: a title

    First line of `nft -a` and more of it.

    What
    - one that is long enough to wrap around
      and goes on
    2. two * three
        nft  list   # x
    ");
    }

    #[test]
    fn colour() {
        let text = page(PAGE, &Look { style: Style::Color, ..Look::default() });
        assert!(text.contains("\u{1b}[36mnft -a\u{1b}[0m and \u{1b}[1mmore\u{1b}[0m of"), "{text:?}");
    }

    #[test]
    fn every_page_of_the_catalogue_fits() {
        let look = Look { width: 72, ..Look::default() };
        for diagnosis in crate::diagnoses::catalogue() {
            let text = page(diagnosis.page, &look);
            assert!(!text.contains("**") && text.starts_with(diagnosis.code), "{text}");
            let prose = text.lines().filter(|line| !line.starts_with("    "));
            let long: Vec<&str> = prose.filter(|line| line.chars().count() > 72).collect();
            assert!(long.is_empty(), "{}: {long:?}", diagnosis.code);
        }
    }
}
