//! What was seen, as a table and as JSON.

use super::engine::Kind;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::fmt;
use std::path::Path;

/// One scenario on one engine.
#[derive(Debug, Clone)]
pub(super) enum Cell {
    /// With the evidence.
    Ok(String),
    Failed(String),
    /// The engine has no such thing; with the reason.
    NotApplicable(String),
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Ok(seen) => write!(f, "ok: {seen}"),
            Cell::Failed(why) => write!(f, "FAIL: {why}"),
            Cell::NotApplicable(why) => write!(f, "n.a.: {why}"),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<(&'static str, Vec<(Kind, Cell)>)>,
}

impl Table {
    pub(super) fn put(&mut self, row: &'static str, kind: Kind, cell: &Cell) {
        match self.rows.iter_mut().find(|(name, _)| *name == row) {
            Some((_, cells)) => cells.push((kind, cell.clone())),
            None => self.rows.push((row, vec![(kind, cell.clone())])),
        }
    }

    pub(super) fn failures(&self) -> usize {
        let cells = self.rows.iter().flat_map(|(_, cells)| cells);
        cells.filter(|(_, cell)| matches!(cell, Cell::Failed(_))).count()
    }

    /// Prints the words side by side, and below them the evidence of each cell.
    pub(super) fn print(&self) {
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| self.has(*kind)).collect();
        println!(
            "\n{:<34}{}",
            "",
            kinds.iter().map(|kind| format!("{:<12}", kind.name())).collect::<String>()
        );
        for (row, cells) in &self.rows {
            let words = kinds.iter().map(|kind| {
                let cell = cells.iter().find(|(of, _)| of == kind).map(|(_, cell)| cell);
                let word = match cell {
                    Some(Cell::Ok(_)) => "ok",
                    Some(Cell::Failed(_)) => "FAIL",
                    Some(Cell::NotApplicable(_)) => "n.a.",
                    None => "-",
                };
                format!("{word:<12}")
            });
            println!("{row:<34}{}", words.collect::<String>());
        }
        println!("\nWhat was seen:");
        for (row, cells) in &self.rows {
            println!("{row}");
            for (kind, cell) in cells {
                println!("  {:<10} {cell}", kind.name());
            }
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut rows = Map::new();
        for (row, cells) in &self.rows {
            let mut columns = Map::new();
            for (kind, cell) in cells {
                let (word, text) = match cell {
                    Cell::Ok(seen) => ("ok", seen),
                    Cell::Failed(why) => ("fail", why),
                    Cell::NotApplicable(why) => ("n.a.", why),
                };
                columns.insert(kind.name().to_owned(), json!({"outcome": word, "evidence": text}));
            }
            rows.insert((*row).to_owned(), Value::Object(columns));
        }
        let text = serde_json::to_string_pretty(&Value::Object(rows))?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())
    }

    fn has(&self, kind: Kind) -> bool {
        self.rows.iter().any(|(_, cells)| cells.iter().any(|(of, _)| *of == kind))
    }
}
