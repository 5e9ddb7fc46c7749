//! Filters of `$all`: prefixes, and regular expressions of the kind that clients send.

use crate::sim::model::Filter;

/// A filter that is ready for use.
#[derive(Clone, Debug)]
pub struct CompiledFilter {
    on: On,
    test: Test,
}

#[derive(Clone, Copy, Debug)]
enum On {
    Stream,
    Type,
}

#[derive(Clone, Debug)]
enum Test {
    Prefixes(Vec<String>),
    Pattern(Pattern),
}

impl CompiledFilter {
    /// Makes a filter ready, or says what is wrong with its regular expression.
    pub fn compile(filter: &Filter) -> Result<CompiledFilter, String> {
        Ok(match filter {
            Filter::StreamPrefix(p) => CompiledFilter { on: On::Stream, test: Test::Prefixes(p.clone()) },
            Filter::TypePrefix(p) => CompiledFilter { on: On::Type, test: Test::Prefixes(p.clone()) },
            Filter::StreamRegex(r) => CompiledFilter { on: On::Stream, test: Test::Pattern(Pattern::compile(r)?) },
            Filter::TypeRegex(r) => CompiledFilter { on: On::Type, test: Test::Pattern(Pattern::compile(r)?) },
        })
    }

    /// A filter that lets streams with one of these prefixes pass.
    pub fn stream_prefixes(prefixes: &[&str]) -> CompiledFilter {
        CompiledFilter { on: On::Stream, test: Test::Prefixes(prefixes.iter().map(|p| (*p).to_owned()).collect()) }
    }

    /// Whether an event of this stream and type passes.
    pub fn matches(&self, stream: &str, event_type: &str) -> bool {
        let text = match self.on {
            On::Stream => stream,
            On::Type => event_type,
        };
        match &self.test {
            Test::Prefixes(prefixes) => prefixes.iter().any(|p| text.starts_with(p.as_str())),
            Test::Pattern(pattern) => pattern.is_found_in(text),
        }
    }
}

/// A regular expression: literals, `.`, classes with ranges and `\d \w \s`, groups, alternatives, anchors, and the
/// quantifiers `* + ? {n} {n,} {n,m}` (lazy ones too, which changes no verdict). Matching backtracks.
#[derive(Clone, Debug)]
struct Pattern {
    alternatives: Vec<Vec<Piece>>,
}

#[derive(Clone, Debug)]
struct Piece {
    atom: Atom,
    least: usize,
    most: usize,
}

#[derive(Clone, Debug)]
enum Atom {
    Char(char),
    Any,
    Class { negated: bool, ranges: Vec<(char, char)> },
    Group(Vec<Vec<Piece>>),
    Start,
    End,
}

impl Pattern {
    fn compile(text: &str) -> Result<Pattern, String> {
        let chars: Vec<char> = text.chars().collect();
        let mut parser = Parser { chars: &chars, at: 0 };
        let alternatives = parser.alternatives()?;
        if parser.at < chars.len() {
            return Err(format!("unmatched `)` at {} in the regular expression `{text}`", parser.at));
        }
        Ok(Pattern { alternatives })
    }

    fn is_found_in(&self, text: &str) -> bool {
        let chars: Vec<char> = text.chars().collect();
        (0..=chars.len()).any(|at| any_of(&self.alternatives, &chars, at, &mut |_| true))
    }
}

fn any_of(alternatives: &[Vec<Piece>], text: &[char], at: usize, then: &mut dyn FnMut(usize) -> bool) -> bool {
    alternatives.iter().any(|pieces| sequence(pieces, text, at, then))
}

fn sequence(pieces: &[Piece], text: &[char], at: usize, then: &mut dyn FnMut(usize) -> bool) -> bool {
    match pieces.split_first() {
        None => then(at),
        Some((piece, rest)) => repeated(piece, 0, rest, text, at, then),
    }
}

fn repeated(
    piece: &Piece,
    had: usize,
    rest: &[Piece],
    text: &[char],
    at: usize,
    then: &mut dyn FnMut(usize) -> bool,
) -> bool {
    if had < piece.most {
        let further =
            &mut |next: usize| (next > at || had < piece.least) && repeated(piece, had + 1, rest, text, next, then);
        if once(&piece.atom, text, at, further) {
            return true;
        }
    }
    had >= piece.least && sequence(rest, text, at, then)
}

fn once(atom: &Atom, text: &[char], at: usize, then: &mut dyn FnMut(usize) -> bool) -> bool {
    let one = |ok: bool, then: &mut dyn FnMut(usize) -> bool| ok && then(at + 1);
    match atom {
        Atom::Char(c) => one(text.get(at) == Some(c), then),
        Atom::Any => one(text.get(at).is_some_and(|c| *c != '\n'), then),
        Atom::Class { negated, ranges } => {
            one(text.get(at).is_some_and(|c| ranges.iter().any(|(low, high)| low <= c && c <= high) != *negated), then)
        }
        Atom::Group(alternatives) => any_of(alternatives, text, at, then),
        Atom::Start => at == 0 && then(at),
        Atom::End => at == text.len() && then(at),
    }
}

struct Parser<'a> {
    chars: &'a [char],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        self.at += usize::from(found);
        found
    }

    fn wrong(&self, what: &str) -> String {
        format!("{what} at {} in the regular expression `{}`", self.at, self.chars.iter().collect::<String>())
    }

    fn alternatives(&mut self) -> Result<Vec<Vec<Piece>>, String> {
        let mut all = vec![Vec::new()];
        while let Some(c) = self.peek() {
            match c {
                ')' => break,
                '|' => {
                    self.at += 1;
                    all.push(Vec::new());
                }
                _ => {
                    let piece = self.piece()?;
                    if let Some(sequence) = all.last_mut() {
                        sequence.push(piece);
                    }
                }
            }
        }
        Ok(all)
    }

    fn piece(&mut self) -> Result<Piece, String> {
        let atom = self.atom()?;
        let (least, most) = match self.peek() {
            Some('*') => (0, usize::MAX),
            Some('+') => (1, usize::MAX),
            Some('?') => (0, 1),
            Some('{') => self.counts()?,
            _ => return Ok(Piece { atom, least: 1, most: 1 }),
        };
        self.at += 1;
        self.eat('?');
        Ok(Piece { atom, least, most })
    }

    /// `{n}`, `{n,}` or `{n,m}`; stops before the closing brace.
    fn counts(&mut self) -> Result<(usize, usize), String> {
        self.at += 1;
        let least = self.number().ok_or_else(|| self.wrong("a number was expected"))?;
        let most = if self.eat(',') { self.number().unwrap_or(usize::MAX) } else { least };
        if self.peek() == Some('}') { Ok((least, most)) } else { Err(self.wrong("`}` was expected")) }
    }

    fn number(&mut self) -> Option<usize> {
        let from = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        self.chars[from..self.at].iter().collect::<String>().parse().ok()
    }

    fn atom(&mut self) -> Result<Atom, String> {
        let c = self.peek().ok_or_else(|| self.wrong("the end was not expected"))?;
        self.at += 1;
        Ok(match c {
            '.' => Atom::Any,
            '^' => Atom::Start,
            '$' => Atom::End,
            '(' => {
                if self.eat('?') && !self.eat(':') {
                    return Err(self.wrong("groups other than `(?:` are not supported"));
                }
                let alternatives = self.alternatives()?;
                if !self.eat(')') {
                    return Err(self.wrong("`)` was expected"));
                }
                Atom::Group(alternatives)
            }
            '[' => {
                let negated = self.eat('^');
                let mut ranges = Vec::new();
                loop {
                    let low = self.peek().ok_or_else(|| self.wrong("`]` was expected"))?;
                    self.at += 1;
                    match low {
                        ']' if !ranges.is_empty() => break,
                        '\\' => ranges.extend(self.escaped()?),
                        _ if self.peek() == Some('-') && self.chars.get(self.at + 1).is_some_and(|c| *c != ']') => {
                            ranges.push((low, self.chars[self.at + 1]));
                            self.at += 2;
                        }
                        _ => ranges.push((low, low)),
                    }
                }
                Atom::Class { negated, ranges }
            }
            '\\' => Atom::Class { negated: false, ranges: self.escaped()? },
            '*' | '+' | '?' => return Err(self.wrong("there is nothing to repeat")),
            c => Atom::Char(c),
        })
    }

    /// What follows a backslash, as ranges.
    fn escaped(&mut self) -> Result<Vec<(char, char)>, String> {
        let c = self.peek().ok_or_else(|| self.wrong("a character was expected after `\\`"))?;
        self.at += 1;
        Ok(match c {
            'd' => vec![('0', '9')],
            'w' => vec![('a', 'z'), ('A', 'Z'), ('0', '9'), ('_', '_')],
            's' => vec![(' ', ' '), ('\t', '\t'), ('\n', '\n'), ('\r', '\r')],
            'D' => vec![('\0', '/'), (':', char::MAX)],
            'S' => vec![('\u{0e}', '\u{1f}'), ('!', char::MAX)],
            c if c.is_ascii_alphanumeric() => return Err(self.wrong("this escape is not supported")),
            c => vec![(c, c)],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_say_what_regular_expressions_say() {
        let table = [
            (r"^[^\$].*", "$system", false),
            (r"^[^\$].*", "orders-1", true),
            (r"^(clusterUpdate|updatedCluster)-", "updatedCluster-x", true),
            (r"^(clusterUpdate|updatedCluster)-", "my-clusterUpdate-x", false),
            (r"^order-\d{2,3}$", "order-1", false),
            (r"^order-\d{2,3}$", "order-123", true),
            (r"^order-\d{2,3}$", "order-1234", false),
            (r"a.*?b+c?$", "xxaZZbb", true),
            (r"^(a*)*$", "aaaaaaaaaaaaaaaab", false),
            (r"x|y", "zzy", true),
            (r"", "anything", true),
        ];
        for (pattern, text, expected) in table {
            let filter = CompiledFilter::compile(&Filter::StreamRegex(pattern.into())).expect(pattern);
            assert_eq!(filter.matches(text, ""), expected, "{pattern} on {text}");
        }
        for bad in ["(a", "a)", "[a", "*a", "a{x}", r"\"] {
            assert!(CompiledFilter::compile(&Filter::TypeRegex(bad.into())).is_err(), "{bad}");
        }
    }
}
