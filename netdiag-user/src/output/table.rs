//! Text in columns.

use super::style::columns;

/// Which side of its column a cell stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows of cells below a heading, with lines between them that belong to the row above.
#[derive(Debug)]
pub(super) struct Table {
    heads: Vec<(&'static str, Align)>,
    rows: Vec<Row>,
}

#[derive(Debug)]
enum Row {
    Cells(Vec<String>),
    Line(String),
}

impl Table {
    pub(super) fn new(heads: &[(&'static str, Align)]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(Row::Cells(cells));
    }

    /// A line about the row above.
    pub(super) fn line(&mut self, text: String) {
        self.rows.push(Row::Line(text));
    }

    /// Lines, each with its end; nothing where there is no row.
    pub(super) fn text(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let widths: Vec<usize> = (0..self.heads.len()).map(|index| self.width(index)).collect();
        let heads: Vec<String> = self.heads.iter().map(|(head, _)| (*head).to_owned()).collect();
        let mut text = self.cells(&heads, &widths);
        for row in &self.rows {
            match row {
                Row::Cells(cells) => text += &self.cells(cells, &widths),
                Row::Line(line) => {
                    text += line;
                    text.push('\n');
                }
            }
        }
        text
    }

    fn width(&self, index: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| match row {
            Row::Cells(cells) => cells.get(index),
            Row::Line(_) => None,
        });
        let head = self.heads.get(index).map_or(0, |(head, _)| columns(head));
        cells.map(|cell| columns(cell)).max().unwrap_or(0).max(head)
    }

    fn cells(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, width), (_, align)) in cells.iter().zip(widths).zip(&self.heads) {
            let gap = " ".repeat(width.saturating_sub(columns(cell)));
            match align {
                Align::Left => line += &format!("{cell}{gap}  "),
                Align::Right => line += &format!("{gap}{cell}  "),
            }
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[("N", Align::Right), ("WHO", Align::Left), ("X", Align::Left)]);
        assert_eq!(table.text(), "");
        table.row(vec!["1000".into(), "a".into(), String::new()]);
        table.line("  ! odd".into());
        table.row(vec!["2".into(), "é→b".into(), "x".into()]);
        assert_eq!(table.text(), "   N  WHO  X\n1000  a\n  ! odd\n   2  é→b  x\n");
    }
}
