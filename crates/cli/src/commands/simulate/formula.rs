//! Arithmetic over the columns of a trace, such as `0.2 + ContextTokens/5000 + GeneratedTokens/40`.
//!
//! Numbers, columns, `+ - * / ( )`. A column whose name is not a plain word stands in single quotes. Length and depth
//! are bounded, so that no text can exhaust the stack.

/// Bytes of a formula, and brackets and signs within each other.
const BYTES_MAX: usize = 1_000;
const DEPTH_MAX: usize = 32;

/// A formula that was read. It works on a stack: operands first, then what is done with them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Formula {
    steps: Vec<Step>,
    columns: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Number(f64),
    /// The place of a column among those of the formula.
    Column(usize),
    Negate,
    Do(char),
}

impl Formula {
    /// Reads a formula; the error says at which character it went wrong.
    pub(super) fn parse(text: &str) -> Result<Formula, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("is longer than {BYTES_MAX} bytes"));
        }
        let mut reader = Reader { text, at: 0, depth: 0, steps: Vec::new(), columns: Vec::new() };
        reader.sum()?;
        match reader.peek() {
            None => Ok(Formula { steps: reader.steps, columns: reader.columns }),
            Some(_) => Err(reader.expected("an operator (+ - * /) or the end")),
        }
    }

    /// The columns it names, each once.
    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Its value, the columns' values standing in the order of [`Formula::columns`].
    pub(super) fn value(&self, columns: &[f64]) -> f64 {
        let mut stack: Vec<f64> = Vec::new();
        for step in &self.steps {
            let value = match *step {
                Step::Number(number) => number,
                Step::Column(at) => columns.get(at).copied().unwrap_or(f64::NAN),
                Step::Negate => -stack.pop().unwrap_or(f64::NAN),
                Step::Do(operator) => {
                    let right = stack.pop().unwrap_or(f64::NAN);
                    let left = stack.pop().unwrap_or(f64::NAN);
                    match operator {
                        '+' => left + right,
                        '-' => left - right,
                        '*' => left * right,
                        _ => left / right,
                    }
                }
            };
            stack.push(value);
        }
        stack.pop().unwrap_or(f64::NAN)
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    steps: Vec<Step>,
    columns: Vec<String>,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }

    /// The next character that is not a space.
    fn peek(&mut self) -> Option<char> {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
        self.rest().chars().next()
    }

    fn expected(&self, what: &str) -> String {
        let place = self.text.get(..self.at).unwrap_or("").chars().count() + 1;
        match self.rest().chars().next() {
            Some(found) => format!("needs {what} at character {place}, not {found:?}"),
            None => format!("needs {what} at its end"),
        }
    }

    fn sum(&mut self) -> Result<(), String> {
        self.product()?;
        while let Some(operator @ ('+' | '-')) = self.peek() {
            self.at += 1;
            self.product()?;
            self.steps.push(Step::Do(operator));
        }
        Ok(())
    }

    fn product(&mut self) -> Result<(), String> {
        self.operand()?;
        while let Some(operator @ ('*' | '/')) = self.peek() {
            self.at += 1;
            self.operand()?;
            self.steps.push(Step::Do(operator));
        }
        Ok(())
    }

    fn operand(&mut self) -> Result<(), String> {
        match self.peek() {
            Some(sign @ ('-' | '(')) => {
                self.depth += 1;
                if self.depth > DEPTH_MAX {
                    return Err(format!("has more than {DEPTH_MAX} brackets and signs within each other"));
                }
                self.at += 1;
                if sign == '-' {
                    self.operand()?;
                    self.steps.push(Step::Negate);
                } else {
                    self.sum()?;
                    if self.peek() != Some(')') {
                        return Err(self.expected("a closing bracket"));
                    }
                    self.at += 1;
                }
                self.depth -= 1;
                Ok(())
            }
            Some(c) if c.is_ascii_digit() || c == '.' => self.number(),
            Some('\'') => {
                let quoted =
                    self.rest().get(1..).and_then(|rest| rest.split_once('\'')).map(|(name, _)| name);
                let name = quoted.ok_or_else(|| self.expected("a closing quote"))?.to_owned();
                self.column(&name, name.len() + 2);
                Ok(())
            }
            Some(c) if c.is_alphabetic() || c == '_' => {
                let rest = self.rest();
                let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'));
                let name = rest.get(..end.unwrap_or(rest.len())).unwrap_or("").to_owned();
                self.column(&name, name.len());
                Ok(())
            }
            _ => Err(self.expected("a number, a column or a bracket")),
        }
    }

    fn column(&mut self, name: &str, bytes: usize) {
        let known = self.columns.iter().position(|column| column == name);
        let place = known.unwrap_or_else(|| {
            self.columns.push(name.to_owned());
            self.columns.len() - 1
        });
        self.steps.push(Step::Column(place));
        self.at += bytes;
    }

    /// Digits with a point and an exponent, such as `1.5e-3`.
    fn number(&mut self) -> Result<(), String> {
        let rest = self.rest();
        let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let mut end = digits(rest);
        if rest.get(end..).is_some_and(|after| after.starts_with('.')) {
            end += 1 + digits(rest.get(end + 1..).unwrap_or(""));
        }
        if let Some(after) = rest.get(end..).and_then(|after| after.strip_prefix(['e', 'E'])) {
            let sign = usize::from(after.starts_with(['+', '-']));
            let exponent = digits(after.get(sign..).unwrap_or(""));
            end += if exponent > 0 { 1 + sign + exponent } else { 0 };
        }
        let parsed = rest.get(..end).and_then(|text| text.parse::<f64>().ok()).filter(|n| n.is_finite());
        let number = parsed.ok_or_else(|| self.expected("a number"))?;
        self.steps.push(Step::Number(number));
        self.at += end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_is_what_people_expect() {
        let table = [
            ("1 + 2 * 3", 7.0),
            ("(1 + 2) * 3", 9.0),
            ("10 - 4 - 3", 3.0),
            ("24 / 4 / 2", 3.0),
            ("-2 * -(3 - 4)", -2.0),
            ("1 - -1", 2.0),
            ("1.5e3+.5 + 2.", 1_502.5),
            ("2e-1*10", 2.0),
            ("0.2 + ContextTokens/5000 + GeneratedTokens/40", 0.2 + 1.0 + 0.5),
            ("'out tokens' * ContextTokens / ContextTokens", 7.0),
            ("usage.total", 11.0),
        ];
        for (text, wanted) in table {
            let formula = Formula::parse(text).expect(text);
            let value = |name: &String| match name.as_str() {
                "ContextTokens" => 5_000.0,
                "GeneratedTokens" => 20.0,
                "out tokens" => 7.0,
                _ => 11.0,
            };
            let columns: Vec<f64> = formula.columns().iter().map(value).collect();
            assert!((formula.value(&columns) - wanted).abs() < 1e-9, "{text}: {}", formula.value(&columns));
        }
        assert_eq!(Formula::parse("b + a*b + 'a'").expect("it is one").columns(), ["b", "a"]);
        assert!(Formula::parse("1/a").expect("it is one").value(&[0.0]).is_infinite());
    }

    #[test]
    fn what_is_no_formula_is_refused_with_the_place() {
        let table = [
            ("", "needs a number, a column or a bracket at its end"),
            ("1 +", "needs a number, a column or a bracket at its end"),
            ("1 ü", "needs an operator (+ - * /) or the end at character 3, not 'ü'"),
            ("a b", "needs an operator (+ - * /) or the end at character 3, not 'b'"),
            ("2x", "needs an operator (+ - * /) or the end at character 2, not 'x'"),
            ("(1", "needs a closing bracket at its end"),
            ("1)", "needs an operator (+ - * /) or the end at character 2, not ')'"),
            ("'a", "needs a closing quote at character 1"),
            ("1e999", "needs a number at character 1"),
            (".", "needs a number at character 1"),
            ("a ^ 2", "needs an operator (+ - * /) or the end at character 3, not '^'"),
        ];
        for (text, wanted) in table {
            let found = Formula::parse(text).expect_err(text);
            assert!(found.starts_with(wanted), "{text:?}: {found}");
        }
    }

    #[test]
    fn length_and_depth_are_bounded() {
        let deep = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
        assert!(Formula::parse(&deep(DEPTH_MAX)).is_ok());
        assert!(Formula::parse(&deep(DEPTH_MAX + 1)).expect_err("too deep").contains("within each other"));
        assert!(Formula::parse(&format!("{}1", "-".repeat(500))).expect_err("too deep").contains("within"));
        assert!(Formula::parse(&"1+".repeat(600)).expect_err("too long").contains("longer than"));
        let wide = format!("{}1", "(1)+".repeat(200));
        assert!(Formula::parse(&wide).is_ok(), "brackets beside each other are not deep");
    }
}
