//! The weights in a file of `torch.save`: a zip archive with a pickle that tells where the tensors lie.
//!
//! A pickle is a program. Here only the few steps that rebuild a state dict are understood; everything else is refused by
//! name and nothing is run. Objects live in one list and refer to each other by number, so that no nesting is too deep.

use std::collections::{HashMap, HashSet};
use std::fs::File;

use safetensors::Dtype;

use super::index::{Entry, bytes_of, shown};
use super::zip;

/// A longer pickle holds no state dict.
const MAX_PICKLE: u64 = 64 << 20;
/// Where a file that holds more than weights keeps those to be used, the best first.
const NESTED: [&str; 6] = ["generator_ema", "generator", "ema", "state_dict", "model", LORA];
/// Where it keeps a LoRA, which stands alone.
const LORA: &str = "generator_lora";

/// Most axes of a tensor and arguments of a function.
const MAX_LIST: usize = 16;

/// What a pickle builds.
enum Object {
    /// Numbers, flags and nothing: of no interest but as sizes.
    Int(i64),
    Other,
    Text(String),
    List(Vec<usize>),
    Dict(Vec<(usize, usize)>),
    /// A function or class, by its full name.
    Global(String),
    /// The file is the number of a text.
    Storage {
        dtype: Dtype,
        file: usize,
    },
    Tensor {
        dtype: Dtype,
        file: usize,
        offset: u64,
        shape: Vec<usize>,
    },
}

/// The tensors of a file of `torch.save`.
pub fn read(file: &File) -> Result<Vec<(String, Entry)>, String> {
    let members = zip::read(file)?;
    let pickle = members.iter().find(|m| m.name.ends_with("/data.pkl")).ok_or("no data.pkl in the archive")?;
    if pickle.size > MAX_PICKLE {
        return Err(format!("a pickle of {} bytes", pickle.size));
    }
    let text = zip::bytes(file, pickle.start, pickle.size)?;
    let mut machine =
        Machine { rest: &text, objects: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    let root = machine.run()?;
    let folder = pickle.name.trim_end_matches("data.pkl");
    let files: HashMap<_, _> = members.iter().map(|m| (m.name.as_str(), m)).collect();
    let tensors = machine.state_dict(root)?.into_iter().map(|(name, object)| {
        let Object::Tensor { dtype, file, offset, shape } = object else {
            return Err(format!("'{}' is no tensor", shown(name)));
        };
        let file = machine.text(*file).ok_or("a broken pickle")?;
        let member = files.get(format!("{folder}data/{file}").as_str());
        let member = member.ok_or_else(|| format!("the numbers of '{}' are missing", shown(name)))?;
        let start = offset.checked_mul(dtype.bitsize() as u64 / 8);
        let bytes = bytes_of(shape, *dtype);
        match (start, bytes) {
            (Some(start), Some(bytes)) if start.checked_add(bytes).is_some_and(|end| end <= member.size) => {
                let (dtype, shape) = (*dtype, shape.clone());
                Ok((name.to_owned(), Entry { dtype, shape, bytes, start: member.start + start, file: 0 }))
            }
            _ => Err(format!("'{}' of {dtype:?} {shape:?} reaches beyond its storage", shown(name))),
        }
    });
    tensors.collect()
}

struct Machine<'a> {
    rest: &'a [u8],
    objects: Vec<Object>,
    stack: Vec<usize>,
    marks: Vec<usize>,
    memo: HashMap<u32, usize>,
}

impl Machine<'_> {
    /// Builds what the pickle says; the number of the outermost object.
    fn run(&mut self) -> Result<usize, String> {
        loop {
            match self.take(1)?[0] {
                0x80 => _ = self.take(1)?,
                b'.' => return self.pop(),
                b'N' | 0x88 | 0x89 => self.push(Object::Other),
                b'G' => {
                    self.take(8)?;
                    self.push(Object::Other);
                }
                b'K' => {
                    let value = i64::from(self.take(1)?[0]);
                    self.push(Object::Int(value));
                }
                b'M' => {
                    let value = i64::from(u16::from_le_bytes(self.array()?));
                    self.push(Object::Int(value));
                }
                b'J' => {
                    let value = i64::from(i32::from_le_bytes(self.array()?));
                    self.push(Object::Int(value));
                }
                0x8a => self.long()?,
                b'X' => {
                    let length = u32::from_le_bytes(self.array()?) as usize;
                    let text = String::from_utf8_lossy(self.take(length)?).into_owned();
                    self.push(Object::Text(text));
                }
                b'c' => {
                    let name = format!("{}.{}", self.line()?, self.line()?);
                    self.global(name)?;
                }
                b'(' => self.marks.push(self.stack.len()),
                b')' | b']' => self.push(Object::List(Vec::new())),
                b'}' => self.push(Object::Dict(Vec::new())),
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Object::List(items));
                }
                count @ 0x85..=0x87 => {
                    let from = self.stack.len().checked_sub(usize::from(count - 0x84)).ok_or("a broken pickle")?;
                    let items = self.stack.split_off(from);
                    self.push(Object::List(items));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(&[item])?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.append(&items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set(&items)?;
                }
                b'q' => {
                    let slot = u32::from(self.take(1)?[0]);
                    self.memo.insert(slot, self.last()?);
                }
                b'r' => {
                    let slot = u32::from_le_bytes(self.array()?);
                    self.memo.insert(slot, self.last()?);
                }
                b'h' => {
                    let slot = u32::from(self.take(1)?[0]);
                    self.recall(slot)?;
                }
                b'j' => {
                    let slot = u32::from_le_bytes(self.array()?);
                    self.recall(slot)?;
                }
                b'Q' => self.storage()?,
                b'R' => self.reduce()?,
                // The attributes of a state dict are its version numbers.
                b'b' => _ = self.pop()?,
                other => return Err(format!("a pickle with the step {other:#04x}, which no state dict needs")),
            }
        }
    }

    fn take(&mut self, count: usize) -> Result<&[u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("a pickle that is cut off")?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "a broken pickle".into())
    }

    fn line(&mut self) -> Result<String, String> {
        let length = self.rest.iter().position(|b| *b == b'\n').ok_or("a pickle that is cut off")?;
        let line = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(line)
    }

    fn push(&mut self, object: Object) {
        self.stack.push(self.objects.len());
        self.objects.push(object);
    }

    fn pop(&mut self) -> Result<usize, String> {
        self.stack.pop().ok_or_else(|| "a broken pickle".into())
    }

    fn last(&self) -> Result<usize, String> {
        self.stack.last().copied().ok_or_else(|| "a broken pickle".into())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<usize>, String> {
        let mark = self.marks.pop().filter(|mark| *mark <= self.stack.len()).ok_or("a broken pickle")?;
        Ok(self.stack.split_off(mark))
    }

    fn recall(&mut self, slot: u32) -> Result<(), String> {
        let object = *self.memo.get(&slot).ok_or("a broken pickle")?;
        self.stack.push(object);
        Ok(())
    }

    fn long(&mut self) -> Result<(), String> {
        let length = usize::from(self.take(1)?[0]);
        let mut bytes = [0; 8];
        match self.take(length)? {
            short if short.len() < 8 && short.last().is_none_or(|b| *b < 0x80) => {
                bytes[..short.len()].copy_from_slice(short);
            }
            _ => return Err("a pickle with a number that is too large".into()),
        }
        self.push(Object::Int(i64::from_le_bytes(bytes)));
        Ok(())
    }

    fn append(&mut self, items: &[usize]) -> Result<(), String> {
        let list = self.last()?;
        match &mut self.objects[list] {
            Object::List(list) => list.extend(items),
            _ => return Err("a broken pickle".into()),
        }
        Ok(())
    }

    fn set(&mut self, items: &[usize]) -> Result<(), String> {
        let dict = self.last()?;
        match (&mut self.objects[dict], items.as_chunks()) {
            (Object::Dict(dict), (pairs, [])) => dict.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            _ => return Err("a broken pickle".into()),
        }
        Ok(())
    }

    /// A name that a state dict may refer to.
    fn global(&mut self, name: String) -> Result<(), String> {
        let known = ["torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "collections.OrderedDict"];
        if !known.contains(&name.as_str()) && dtype_of(&name).is_none() {
            return Err(format!("a pickle that asks for '{}': only plain tensors are read", shown(&name)));
        }
        self.push(Object::Global(name));
        Ok(())
    }

    /// `('storage', class, file, device, count)`.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let [_, class, file, ..] = *self.list(id)? else { return Err("a pickle with a broken storage".into()) };
        match (&self.objects[class], &self.objects[file]) {
            (Object::Global(class), Object::Text(_)) => {
                let dtype = dtype_of(class).ok_or("a broken pickle")?;
                self.push(Object::Storage { dtype, file });
                Ok(())
            }
            _ => Err("a pickle with a broken storage".into()),
        }
    }

    fn reduce(&mut self) -> Result<(), String> {
        let (args, function) = (self.pop()?, self.pop()?);
        let args = self.list(args)?.to_vec();
        let Object::Global(name) = &self.objects[function] else {
            return Err("a broken pickle".into());
        };
        match name.as_str() {
            "collections.OrderedDict" => self.push(Object::Dict(Vec::new())),
            "torch._utils._rebuild_parameter" => {
                let tensor = *args.first().ok_or("a broken pickle")?;
                self.stack.push(tensor);
            }
            "torch._utils._rebuild_tensor_v2" => {
                let tensor = self.tensor(&args)?;
                self.push(tensor);
            }
            _ => return Err("a broken pickle".into()),
        }
        Ok(())
    }

    /// `(storage, offset, shape, strides, ..)`.
    fn tensor(&self, args: &[usize]) -> Result<Object, String> {
        let [storage, offset, shape, strides, ..] = *args else { return Err("a broken pickle".into()) };
        let Object::Storage { dtype, file } = &self.objects[storage] else {
            return Err("a pickle with a tensor without storage".into());
        };
        let int = |object: usize| match self.objects[object] {
            Object::Int(value) => usize::try_from(value).map_err(|_| "a negative size".to_owned()),
            _ => Err("a broken pickle".into()),
        };
        let ints = |object: usize| self.list(object)?.iter().map(|&o| int(o)).collect::<Result<Vec<_>, _>>();
        let (shape, strides) = (ints(shape)?, ints(strides)?);
        // The stride of an axis of one does not matter.
        let mut dense = 1usize;
        for (size, stride) in shape.iter().zip(&strides).rev() {
            if *size > 1 && *stride != dense {
                return Err(format!("a tensor of shape {shape:?} that is not stored in order"));
            }
            dense = dense.saturating_mul(*size);
        }
        if shape.len() != strides.len() {
            return Err("a broken pickle".into());
        }
        Ok(Object::Tensor { dtype: *dtype, file: *file, offset: int(offset)? as u64, shape })
    }

    /// The items of a list that cannot be long.
    fn list(&self, object: usize) -> Result<&[usize], String> {
        match &self.objects[object] {
            Object::List(items) if items.len() <= MAX_LIST => Ok(items),
            _ => Err("a broken pickle".into()),
        }
    }

    fn text(&self, object: usize) -> Option<&str> {
        match &self.objects[object] {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The weights in a file: what it holds, or what it holds under the first of [`NESTED`].
    fn state_dict(&self, root: usize) -> Result<Vec<(&str, &Object)>, String> {
        let outer = self.dict(root)?;
        if !outer.iter().any(|(_, object)| matches!(object, Object::Dict(_))) {
            return Ok(outer);
        }
        let Object::Dict(pairs) = &self.objects[root] else { return Ok(outer) };
        let find = |name: &&str| pairs.iter().find(|(key, _)| self.text(*key) == Some(name));
        let found: Vec<_> = NESTED.iter().filter_map(find).collect();
        if found.len() > 1 && find(&LORA).is_some() {
            return Err(format!("a file with weights and their LoRA, '{LORA}': keep each in a file of its own"));
        }
        match found.first() {
            Some((_, inner)) => self.dict(*inner),
            None => {
                let names: Vec<_> = outer.iter().take(8).map(|(name, _)| shown(name)).collect();
                Err(format!("a file that holds {names:?}, none of which is known to hold weights"))
            }
        }
    }

    fn dict(&self, object: usize) -> Result<Vec<(&str, &Object)>, String> {
        let Object::Dict(pairs) = &self.objects[object] else { return Err("no state dict".into()) };
        let mut names = HashSet::new();
        let named = pairs.iter().map(|(key, value)| {
            let name = self.text(*key).ok_or("a state dict with a name that is no text")?;
            if names.insert(name) {
                Ok((name, &self.objects[*value]))
            } else {
                Err(format!("'{}' appears twice", shown(name)))
            }
        });
        named.collect()
    }
}

fn dtype_of(class: &str) -> Option<Dtype> {
    Some(match class.strip_prefix("torch.")?.strip_suffix("Storage")? {
        "Float" => Dtype::F32,
        "Half" => Dtype::F16,
        "BFloat16" => Dtype::BF16,
        "Double" => Dtype::F64,
        "Long" => Dtype::I64,
        "Int" => Dtype::I32,
        "Byte" => Dtype::U8,
        "Bool" => Dtype::BOOL,
        _ => return None,
    })
}
