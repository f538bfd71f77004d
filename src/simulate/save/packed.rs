//! Tensors in fewer bytes, without loss.
//!
//! Of what a network remembers the upper byte of a number, its sign and most of its exponent, takes few values, and the
//! three below are as good as random: so the upper ones are deflated by themselves, as with HDF5's shuffle filter, which
//! saves a seventh.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use candle_core::{DType, Device, Tensor};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use crate::{Error, Result};

/// What the upper bytes of a tensor of 32-bit floats are called, behind its name: compressed bytes.
const UPPER: &str = "#upper";
/// What the others are called: three bytes a number, the lowest first, `[.., 3]`.
const LOWER: &str = "#lower";

/// These tensors with each of 32-bit floats in two parts.
///
/// # Errors
/// [`Error::Tensor`] when there is not enough memory.
pub fn pack(tensors: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
    let mut packed = BTreeMap::new();
    for (name, tensor) in tensors {
        if tensor.dtype() != DType::F32 {
            packed.insert(name.clone(), tensor.clone());
            continue;
        }
        let bytes: Vec<_> = tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_le_bytes).collect();
        let lower: Vec<u8> = bytes.iter().flat_map(|&[a, b, c, _]| [a, b, c]).collect();
        let upper: Vec<u8> = bytes.iter().map(|bytes| bytes[3]).collect();
        let upper = deflate(&upper).map_err(|e| Error::input(e.to_string()))?;
        let (dims, length) = ([tensor.dims(), &[3]].concat(), upper.len());
        packed.insert(format!("{name}{LOWER}"), Tensor::from_vec(lower, dims, &Device::Cpu)?);
        packed.insert(format!("{name}{UPPER}"), Tensor::from_vec(upper, length, &Device::Cpu)?);
    }
    Ok(packed)
}

/// The inverse of [`pack`]; nothing if these are no packed tensors.
pub fn unpack(mut packed: BTreeMap<String, Tensor>) -> Option<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    while let Some((name, tensor)) = packed.pop_first() {
        let Some(name) = name.strip_suffix(LOWER) else {
            tensors.insert(name, tensor);
            continue;
        };
        let [dims @ .., 3] = tensor.dims() else { return None };
        let lower = tensor.flatten_all().ok()?.to_vec1::<u8>().ok()?;
        let upper = packed.remove(&format!("{name}{UPPER}"))?.to_vec1::<u8>().ok()?;
        let upper = inflate(&upper, lower.len() / 3)?;
        let numbers =
            lower.as_chunks::<3>().0.iter().zip(upper).map(|(&[a, b, c], d)| f32::from_le_bytes([a, b, c, d]));
        tensors.insert(name.to_owned(), Tensor::from_vec(numbers.collect(), dims, &Device::Cpu).ok()?);
    }
    Some(tensors)
}

fn deflate(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// Exactly so many bytes, if that is what was compressed.
fn inflate(bytes: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut inflated = Vec::with_capacity(length);
    // A hostile file may hold more than there is memory for.
    ZlibDecoder::new(bytes).take(length as u64 + 1).read_to_end(&mut inflated).ok()?;
    (inflated.len() == length).then_some(inflated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NoiseSource;
    use crate::simulate::Noise;

    fn packed(tensor: Tensor) -> BTreeMap<String, Tensor> {
        pack(&BTreeMap::from([("a".to_owned(), tensor)])).unwrap()
    }

    #[test]
    fn numbers_come_back_to_the_bit_and_take_a_seventh_less() {
        let mut numbers = vec![0.0; 64 * 256];
        Noise { seed: 1, chunk: 0 }.fill(0, &mut numbers);
        numbers[..6].copy_from_slice(&[0.0, -0.0, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE / 3.0, f32::MAX]);
        let packed = packed(Tensor::from_slice(&numbers, (64, 256), &Device::Cpu).unwrap());
        let bytes: usize = packed.values().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum();
        assert!(bytes < numbers.len() * 4 * 6 / 7, "{bytes}");
        let again = &unpack(packed).unwrap()["a"];
        assert_eq!(again.dims(), [64, 256]);
        let again = again.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(again.iter().zip(numbers).all(|(a, b)| a.to_bits() == b.to_bits()));
    }

    #[test]
    fn tensors_of_any_kind_and_shape_come_back() {
        let [none, one] = [0, 1].map(|n| Tensor::ones((n, 3), DType::F32, &Device::Cpu).unwrap());
        let whole = Tensor::new(&[1u8, 2, 3], &Device::Cpu).unwrap();
        for tensor in [none, one.transpose(0, 1).unwrap(), one, whole, Tensor::new(7.5f64, &Device::Cpu).unwrap()] {
            let (dims, dtype) = (tensor.dims().to_vec(), tensor.dtype());
            let again = unpack(packed(tensor)).unwrap().remove("a").unwrap();
            assert_eq!((again.dims(), again.dtype()), (&dims[..], dtype));
        }
    }

    #[test]
    fn parts_that_do_not_fit_each_other_are_refused() {
        let good = packed(Tensor::ones(100, DType::F32, &Device::Cpu).unwrap());
        let bad = |part: &str, tensor: Tensor| {
            let mut parts = good.clone();
            parts.insert(format!("a{part}"), tensor);
            unpack(parts).is_none()
        };
        let bytes = |bytes: Vec<u8>| Tensor::new(bytes, &Device::Cpu).unwrap();
        assert!(bad(UPPER, bytes(vec![1, 2, 3])), "not compressed");
        for length in [99, 101, 100_000] {
            assert!(bad(UPPER, bytes(deflate(&vec![0; length]).unwrap())), "{length} numbers");
        }
        assert!(bad(LOWER, bytes(vec![0; 300])), "no shape");
        let mut parts = good.clone();
        parts.remove(&format!("a{UPPER}"));
        assert!(unpack(parts).is_none(), "half of it");
    }
}
