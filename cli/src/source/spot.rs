//! Places in what the user wrote.

use std::fmt;
use std::rc::Rc;

/// A file as it was read.
#[derive(Debug)]
pub struct File {
    /// As the user called it.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// A place in a file; or something without lines, such as a flag or an environment variable.
#[derive(Debug, Clone)]
pub struct Spot {
    file: Rc<File>,
    position: Option<Position>,
}

/// Line and column count from one, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    line: usize,
    column: usize,
    width: usize,
}

impl Spot {
    /// A place of `width` characters in one line of a file.
    pub fn at(file: &Rc<File>, line: usize, column: usize, width: usize) -> Self {
        Self { file: Rc::clone(file), position: Some(Position { line, column, width }) }
    }

    /// A file as a whole, a flag or an environment variable.
    pub fn whole(name: impl Into<String>) -> Self {
        Self { file: Rc::new(File { name: name.into(), text: String::new() }), position: None }
    }

    /// What the user calls the file.
    pub fn file(&self) -> &str {
        &self.file.name
    }

    /// The line, from one.
    pub fn line(&self) -> Option<usize> {
        self.position.map(|position| position.line)
    }

    /// The column in characters, from one.
    pub fn column(&self) -> Option<usize> {
        self.position.map(|position| position.column)
    }

    /// How many characters it takes in its line.
    pub fn width(&self) -> usize {
        self.position.map_or(0, |position| position.width)
    }

    /// The text of the line that it is in.
    pub fn source_line(&self) -> Option<&str> {
        self.file.text.lines().nth(self.line()?.checked_sub(1)?)
    }

    /// A key that sorts places of one file from top to bottom.
    pub fn order(&self) -> (usize, usize) {
        self.position.map_or((0, 0), |position| (position.line, position.column))
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(Position { line, column, .. }) => write!(f, "{}:{line}:{column}", self.file.name),
            None => f.write_str(&self.file.name),
        }
    }
}
