//! [`Pickle`]: the content of a pickle as data. No code is run: a function call is only recorded.
//!
//! A pickle is a program for a stack machine that may call any Python function. Here names are only text: an object of an
//! unknown class, or the result of an unknown function, is a value without meaning, and nothing is imported or called.
//! Values lie in one list and refer to each other by index, so that memory stays proportional to the size of the file.

mod names;

use std::collections::{BTreeMap, BTreeSet};

/// Maximum size of a pickle in bytes; that of ViT-H with its optimizer is below 1 MB.
pub(super) const MOST_BYTES: usize = 1 << 26;
/// Maximum number of values in a pickle.
const MOST_VALUES: usize = 1 << 22;

const CUT_OFF: &str = "the pickle ends early: the file is cut off or damaged; get it again";

/// Index of a value in its pickle.
pub(super) type Place = usize;

/// A value in a pickle.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// A class or function.
    Name {
        module: &'a str,
        name: &'a str,
    },
    /// A tuple, list or set.
    Items(Vec<Place>),
    Dict(Vec<(Place, Place)>),
    /// The result of a call, the state that would be set on it, and the items if it is a kind of dictionary.
    Call {
        callable: Place,
        arguments: Place,
        state: Option<Place>,
        pairs: Vec<(Place, Place)>,
    },
    /// A persistent id: values of a tensor that are stored outside the pickle.
    Outside(Place),
}

/// All values of a pickle, and the index of the top-level one.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Place,
}

impl<'a> Pickle<'a> {
    /// Reads a pickle without running it.
    ///
    /// # Errors
    /// Bytes that are not a pickle, or a truncated or too large pickle.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let mut machine = Machine { rest: bytes, ..Machine::default() };
        while machine.step()? {}
        let root = machine.pop()?;
        Ok(Self { values: machine.values, root })
    }

    /// Classes and functions that weights do not need, sorted. What they would make is ignored.
    pub(crate) fn strangers(&self) -> Vec<String> {
        let name = |value: &Value| match value {
            Value::Name { module, name } if !names::is_usual(module, name) => {
                Some(format!("{module}.{name}"))
            }
            _ => None,
        };
        self.values.iter().filter_map(name).collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub(crate) fn root(&self) -> Place {
        self.root
    }

    pub(crate) fn value(&self, place: Place) -> &Value<'a> {
        &self.values[place]
    }

    pub(crate) fn text(&self, place: Place) -> Option<&'a str> {
        match self.value(place) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn items(&self, place: Place) -> Option<&[Place]> {
        match self.value(place) {
            Value::Items(items) => Some(items),
            _ => None,
        }
    }

    /// A non-negative integer.
    pub(crate) fn size(&self, place: Place) -> Option<usize> {
        match self.value(place) {
            Value::Int(number) => usize::try_from(*number).ok(),
            _ => None,
        }
    }

    /// Keys and values of a dictionary, of whatever class, in insertion order. Keys that are not strings are skipped.
    pub(crate) fn named(&self, place: Place) -> Option<Vec<(&'a str, Place)>> {
        match self.value(place) {
            Value::Dict(pairs) => Some(pairs),
            Value::Call { pairs, .. } => Some(pairs).filter(|pairs| !pairs.is_empty()),
            _ => None,
        }
        .map(|pairs| pairs.iter().filter_map(|(key, value)| Some((self.text(*key)?, *value))).collect())
    }

    /// The callable of a call, as `module.name`; `None` for other values.
    pub(crate) fn called(&self, place: Place) -> Option<(&'a str, &'a str)> {
        let Value::Call { callable, .. } = self.value(place) else { return None };
        match *self.value(*callable) {
            Value::Name { module, name } => Some((module, name)),
            _ => None,
        }
    }
}

/// The stack machine that pickles are written for.
#[derive(Default)]
struct Machine<'a> {
    rest: &'a [u8],
    values: Vec<Value<'a>>,
    stack: Vec<Place>,
    /// Stack heights of the marks.
    marks: Vec<usize>,
    memo: BTreeMap<u64, Place>,
    /// Number of items that were copied from lists.
    given: usize,
}

impl<'a> Machine<'a> {
    /// Runs one operation; returns false after the last one.
    fn step(&mut self) -> Result<bool, String> {
        let code = self.take(1)?[0];
        match code {
            b'.' => return Ok(false),
            0x80 => _ = self.take(1)?, // version of the protocol
            0x95 => _ = self.take(8)?, // length of a frame
            b'(' => self.marks.push(self.stack.len()),
            b'0' => _ = self.pop()?,
            b'1' => _ = self.above_mark()?,
            b'2' => {
                let place = self.pop()?;
                self.stack.extend([place, place]);
            }
            b'q' | b'r' | 0x94 => {
                let key = match code {
                    b'q' => self.number(1)?,
                    b'r' => self.number(4)?,
                    _ => self.memo.len() as u64,
                };
                let place = self.pop()?;
                self.stack.push(place);
                self.memo.insert(key, place);
            }
            b'h' | b'j' => {
                let key = self.number(if code == b'h' { 1 } else { 4 })?;
                let place = self.memo.get(&key).ok_or_else(|| format!("the pickle has no value {key}"))?;
                self.stack.push(*place);
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.above_mark()?;
                self.append(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(vec![(key, value)])?;
            }
            b'u' => {
                let pairs = self.pairs()?;
                self.insert(pairs)?;
            }
            b'b' => self.build()?,
            _ => {
                let value = self.made(code)?;
                self.push(value)?;
            }
        }
        Ok(true)
    }

    /// The value that the operation `code` creates.
    fn made(&mut self, code: u8) -> Result<Value<'a>, String> {
        Ok(match code {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'K' => Value::Int(self.number(1)? as i64),
            b'M' => Value::Int(self.number(2)? as i64),
            b'J' => Value::Int((self.number(4)? as u32 as i32).into()),
            0x8a | 0x8b => {
                let bytes = self.counted(if code == 0x8a { 1 } else { 4 })?;
                integer(bytes).map_or(Value::Bytes(bytes), Value::Int)
            }
            b'G' => Value::Float(f64::from_bits(self.number(8)?.swap_bytes())),
            b'X' | 0x8c | 0x8d => {
                let width =
                    [(b'X', 4), (0x8c, 1)].iter().find(|(c, _)| *c == code).map_or(8, |(_, width)| *width);
                Value::Text(text(self.counted(width)?)?)
            }
            // Text of Python 2, or bytes.
            b'U' | b'T' => {
                let bytes = self.counted(if code == b'U' { 1 } else { 4 })?;
                std::str::from_utf8(bytes).map_or(Value::Bytes(bytes), Value::Text)
            }
            b'C' => Value::Bytes(self.counted(1)?),
            b'B' => Value::Bytes(self.counted(4)?),
            0x8e | 0x96 => Value::Bytes(self.counted(8)?),
            b'c' => Value::Name { module: self.line()?, name: self.line()? },
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.values[module], &self.values[name]) {
                    (Value::Text(module), Value::Text(name)) => Value::Name { module, name },
                    _ => return Err("the pickle has a name that is not a string".into()),
                }
            }
            b')' | b']' | 0x8f => Value::Items(vec![]),
            b'}' => Value::Dict(vec![]),
            b't' | b'l' | 0x91 => Value::Items(self.above_mark()?),
            b'd' => Value::Dict(self.pairs()?),
            0x85..=0x87 => {
                let mut items = (0x84..code).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
                items.reverse();
                Value::Items(items)
            }
            b'R' | 0x81 | 0x92 => {
                if code == 0x92 {
                    self.pop()?; // arguments by name
                }
                let (arguments, callable) = (self.pop()?, self.pop()?);
                match self.values[callable] {
                    Value::Name { module: "collections", name: "OrderedDict" | "defaultdict" } => {
                        Value::Dict(self.given_pairs(arguments)?)
                    }
                    _ => Value::Call { callable, arguments, state: None, pairs: vec![] },
                }
            }
            b'Q' => Value::Outside(self.pop()?),
            _ => return Err(format!("the pickle uses the operation {code:#04x}, which weights do not need")),
        })
    }

    /// The items of a dictionary that is made of a list of pairs, as Python 2 writes `OrderedDict`.
    /// Their number is limited, because a list can be used many times.
    fn given_pairs(&mut self, arguments: Place) -> Result<Vec<(Place, Place)>, String> {
        let items = |place: &Place| match &self.values[*place] {
            Value::Items(items) => items.as_slice(),
            _ => &[],
        };
        let pair = |place: &Place| match items(place) {
            [key, value] => Some((*key, *value)),
            _ => None,
        };
        let lists = items(&arguments).iter().take(1).map(items);
        if lists.clone().map(<[Place]>::len).sum::<usize>() > MOST_VALUES - self.given {
            return Err(format!("the pickle has more than {MOST_VALUES} values"));
        }
        let pairs: Vec<_> = lists.flatten().filter_map(pair).collect();
        self.given += pairs.len();
        Ok(pairs)
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), String> {
        if self.values.len() == MOST_VALUES {
            return Err(format!("the pickle has more than {MOST_VALUES} values"));
        }
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Place, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the pickle pops a value from an empty stack".into());
        }
        self.stack.pop().ok_or_else(String::new)
    }

    /// Removes the last mark and the values above it, which are returned.
    fn above_mark(&mut self) -> Result<Vec<Place>, String> {
        let mark = self.marks.pop().ok_or("the pickle pops a mark that does not exist")?;
        Ok(self.stack.split_off(mark))
    }

    fn pairs(&mut self) -> Result<Vec<(Place, Place)>, String> {
        let items = self.above_mark()?;
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err("the pickle has a key without a value".into());
        };
        Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
    }

    /// The container at the top of the stack.
    fn container(&mut self) -> Result<&mut Value<'a>, String> {
        let place = self.pop()?;
        self.stack.push(place);
        Ok(&mut self.values[place])
    }

    fn append(&mut self, more: Vec<Place>) -> Result<(), String> {
        match self.container()? {
            Value::Items(items) => items.extend(more),
            Value::Call { .. } => {} // a class of lists
            _ => return Err("the pickle appends to a value that is not a list".into()),
        }
        Ok(())
    }

    fn insert(&mut self, more: Vec<(Place, Place)>) -> Result<(), String> {
        match self.container()? {
            Value::Dict(pairs) | Value::Call { pairs, .. } => pairs.extend(more),
            _ => return Err("the pickle sets a key of a value that is not a dictionary".into()),
        }
        Ok(())
    }

    fn build(&mut self) -> Result<(), String> {
        let place = self.pop()?;
        match self.container()? {
            Value::Call { state, .. } => *state = Some(place),
            Value::Dict(_) => {} // versions of modules, beside a state dict
            _ => return Err("the pickle sets the state of a value that has none".into()),
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CUT_OFF)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A little-endian integer of `bytes` bytes.
    fn number(&mut self, bytes: usize) -> Result<u64, String> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Bytes preceded by their count, which has `width` bytes.
    fn counted(&mut self, width: usize) -> Result<&'a [u8], String> {
        let count = self.number(width)?;
        self.take(usize::try_from(count).unwrap_or(usize::MAX))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').ok_or(CUT_OFF)?;
        let line = self.take(end)?;
        self.take(1)?;
        text(line)
    }
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "the pickle has a string that is not UTF-8".into())
}

/// A little-endian integer in two's complement; `None` if it does not fit into an `i64`.
fn integer(bytes: &[u8]) -> Option<i64> {
    let negative = bytes.last().is_some_and(|byte| *byte >= 0x80);
    let mut all = [if negative { 0xff } else { 0 }; 8];
    all.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(all))
}
