//! The screen of a terminal, made of what a program wrote to it: as much of ECMA-48 as `top` uses.

/// Cells of the screen.
struct Grid {
    cells: Vec<Vec<char>>,
    row: usize,
    column: usize,
}

impl Grid {
    fn put(&mut self, c: char) {
        if let Some(cell) = self.cells.get_mut(self.row).and_then(|row| row.get_mut(self.column)) {
            *cell = c;
        }
        self.column += 1;
    }

    fn clear_from(&mut self, row: usize, column: usize) {
        for (at, line) in self.cells.iter_mut().enumerate().skip(row) {
            let from = if at == row { column.min(line.len()) } else { 0 };
            line[from..].fill(' ');
        }
    }

    /// A control sequence: its parameters and its last letter.
    fn obey(&mut self, parameters: &str, last: char) {
        let mut numbers = parameters.split(';').map(|number| number.parse::<usize>().ok());
        let first = numbers.next().flatten();
        match last {
            'H' => {
                self.row = first.unwrap_or(1).saturating_sub(1);
                self.column = numbers.next().flatten().unwrap_or(1).saturating_sub(1);
            }
            'G' => self.column = first.unwrap_or(1).saturating_sub(1),
            'J' if first.unwrap_or(0) == 0 => self.clear_from(self.row, self.column),
            'J' => self.clear_from(0, 0),
            'K' => {
                let (row, column) = (self.row, self.column);
                if let Some(line) = self.cells.get_mut(row) {
                    let from = column.min(line.len());
                    line[from..].fill(' ');
                }
            }
            // Colours and modes.
            _ => {}
        }
    }
}

/// Returns the lines of the screen after these bytes.
pub fn lines(bytes: &[u8], rows: usize, columns: usize) -> Vec<String> {
    let mut grid = Grid { cells: vec![vec![' '; columns]; rows], row: 0, column: 0 };
    let text = String::from_utf8_lossy(bytes);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' if chars.clone().next() == Some('[') => {
                let rest: String = chars.clone().skip(1).take_while(|c| !is_final(*c)).collect();
                let mut skipped = chars.clone().skip(1 + rest.chars().count());
                let Some(last) = skipped.next() else { break };
                grid.obey(&rest, last);
                chars.nth(rest.chars().count() + 1);
            }
            '\u{1b}' => drop(chars.next()),
            '\r' => grid.column = 0,
            '\n' => grid.row += 1,
            c if c.is_control() => {}
            c => grid.put(c),
        }
    }
    grid.cells.into_iter().map(|row| row.into_iter().collect::<String>()).collect()
}

fn is_final(c: char) -> bool {
    ('@'..='~').contains(&c)
}

#[test]
fn cells_are_where_they_were_written() {
    let lines = lines(b"\x1b[?1049h\x1b[2Jab\x1b[2;3H\x1b[31mc\x1b[0md\x1b[1;2HX\x1b[K", 2, 5);
    assert_eq!(lines, ["aX   ", "  cd "]);
}
