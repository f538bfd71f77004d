//! Arrays that cost no allocation once as many of the same length have been made and dropped.
//!
//! A candle tensor takes its numbers, its shape and its counters anew from the heap, five times an operation. What a chunk is
//! made of has the same lengths in every chunk, so an [`Array`] on the CPU leaves its numbers to the next one of this thread.
//! On other devices it is a candle tensor.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Deref;

use candle_core::{Device, Result, Tensor, bail};
use smallvec::SmallVec;

use super::op::View;
use super::threads::for_both_mut;

/// Buffers that a thread keeps at most; the ones that have waited longest are given back.
const MOST: usize = 256;

thread_local!(static SPARE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) });

/// f32 numbers of a shape.
#[derive(Clone)]
pub struct Array {
    dims: Dims,
    held: Held,
}

type Dims = SmallVec<[usize; 4]>;

#[derive(Clone)]
enum Held {
    Numbers(Buffer),
    Tensor(Tensor),
}

/// Numbers on the CPU.
struct Buffer(Vec<f32>);

impl Buffer {
    /// So many numbers, whichever.
    fn any(length: usize) -> Self {
        let spare = SPARE.with_borrow_mut(|spare| {
            let at = spare.iter().rposition(|buffer| buffer.len() == length)?;
            Some(spare.remove(at))
        });
        Self(spare.unwrap_or_else(|| vec![0.0; length]))
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = Self::any(self.0.len());
        copy.0.copy_from_slice(&self.0);
        copy
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // A thread that ends has nothing to keep.
        _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() == MOST {
                spare.remove(0);
            }
            spare.push(buffer);
        });
    }
}

impl Array {
    /// An array whose numbers `fill` writes, every one: they begin as any.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(dims: &[usize], device: &Device, fill: impl FnOnce(&mut [f32])) -> Result<Self> {
        let mut numbers = Buffer::any(dims.iter().product());
        fill(&mut numbers.0);
        let held = match device {
            Device::Cpu => Held::Numbers(numbers),
            _ => Held::Tensor(Tensor::from_slice(&numbers.0, dims, device)?),
        };
        Ok(Self { dims: dims.into(), held })
    }

    /// Two arrays of one shape, at once where two threads are at hand.
    ///
    /// # Errors
    /// Those of `make`, of which each is asked for number 0 or 1, or an error when what it makes has another shape.
    pub fn two<E: From<candle_core::Error> + Send>(
        dims: &[usize],
        device: &Device,
        make: impl Fn(usize) -> std::result::Result<Self, E> + Sync,
    ) -> std::result::Result<[Self; 2], E> {
        if !device.is_cpu() {
            return Ok([make(0)?, make(1)?]);
        }
        // Each thread keeps its own buffers.
        let mut two = [(Buffer::any(dims.iter().product()), Ok(())), (Buffer::any(dims.iter().product()), Ok(()))];
        for_both_mut(&mut two, |i, (out, done)| {
            *done = make(i).and_then(|made| {
                if made.dims() != dims {
                    return Err(candle_core::Error::msg(format!("{:?} are not {dims:?}", made.dims())).into());
                }
                out.0.copy_from_slice(&made);
                Ok(())
            });
        });
        let [first, second] =
            two.map(|(numbers, done)| done.map(|()| Self { dims: dims.into(), held: Held::Numbers(numbers) }));
        Ok([first?, second?])
    }

    /// Zeros.
    ///
    /// # Errors
    /// Those of the device.
    pub fn zeros(dims: &[usize], device: &Device) -> Result<Self> {
        Self::new(dims, device, |numbers| numbers.fill(0.0))
    }

    /// The numbers of an f32 tensor, where they are.
    ///
    /// # Errors
    /// An error when it holds other numbers.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let tensor = tensor.contiguous()?;
        match tensor.device() {
            Device::Cpu => {
                let numbers = View::new(&tensor)?;
                Self::new(tensor.dims(), &Device::Cpu, |out| out.copy_from_slice(&numbers))
            }
            _ => Ok(Self { dims: tensor.dims().into(), held: Held::Tensor(tensor) }),
        }
    }

    /// The same as a tensor; on the CPU a copy.
    ///
    /// # Errors
    /// Those of the device.
    pub fn tensor(&self) -> Result<Tensor> {
        match &self.held {
            Held::Numbers(numbers) => Tensor::from_slice(&numbers.0, &self.dims[..], &Device::Cpu),
            Held::Tensor(tensor) => tensor.reshape(&self.dims[..]),
        }
    }

    /// Its shape.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Its two axes.
    ///
    /// # Errors
    /// An error when it has another number of them.
    pub fn dims2(&self) -> Result<(usize, usize)> {
        match self.dims[..] {
            [a, b] => Ok((a, b)),
            _ => bail!("{:?} are not two axes", self.dims),
        }
    }

    /// Its three axes.
    ///
    /// # Errors
    /// An error when it has another number of them.
    pub fn dims3(&self) -> Result<(usize, usize, usize)> {
        match self.dims[..] {
            [a, b, c] => Ok((a, b, c)),
            _ => bail!("{:?} are not three axes", self.dims),
        }
    }

    /// Where it is.
    pub fn device(&self) -> &Device {
        match &self.held {
            Held::Numbers(_) => &Device::Cpu,
            Held::Tensor(tensor) => tensor.device(),
        }
    }

    /// Its numbers in order, brought here if they are elsewhere.
    ///
    /// # Errors
    /// Those of the device.
    pub fn numbers(&self) -> Result<Cow<'_, [f32]>> {
        match &self.held {
            Held::Numbers(numbers) => Ok(Cow::Borrowed(&numbers.0)),
            Held::Tensor(tensor) => Ok(Cow::Owned(tensor.flatten_all()?.to_vec1()?)),
        }
    }

    /// The same numbers in another shape.
    ///
    /// # Errors
    /// An error when it has another number of them.
    pub fn reshape(mut self, dims: &[usize]) -> Result<Self> {
        if dims.iter().product::<usize>() != self.dims.iter().product::<usize>() {
            bail!("{:?} cannot be seen as {dims:?}", self.dims);
        }
        self.dims = dims.into();
        Ok(self)
    }

    /// A copy of the numbers from `start` on, in the shape `dims`.
    ///
    /// # Errors
    /// An error when there are fewer.
    pub fn part(&self, start: usize, dims: &[usize]) -> Result<Self> {
        let (all, length) = (self.dims.iter().product::<usize>(), dims.iter().product::<usize>());
        if start + length > all {
            bail!("{:?} have no {dims:?} from {start} on", self.dims);
        }
        match &self.held {
            Held::Numbers(numbers) => {
                Self::new(dims, &Device::Cpu, |out| out.copy_from_slice(&numbers.0[start..start + length]))
            }
            Held::Tensor(tensor) => Self::from_tensor(&tensor.flatten_all()?.narrow(0, start, length)?.reshape(dims)?),
        }
    }

    /// Arrays `[rows, n]` side by side.
    ///
    /// # Errors
    /// An error when they have not as many rows.
    pub fn columns(parts: &[&Self]) -> Result<Self> {
        let rows = parts.first().map_or(Ok(0), |part| Ok::<_, candle_core::Error>(part.dims2()?.0))?;
        let mut width = 0;
        for part in parts {
            let (count, columns) = part.dims2()?;
            if count != rows {
                bail!("{count} rows do not fit beside {rows}");
            }
            width += columns;
        }
        let Some(first) = parts.first().filter(|first| !first.device().is_cpu()) else {
            return Self::new(&[rows, width], &Device::Cpu, |out| {
                let mut start = 0;
                for part in parts {
                    let columns = part.dims[1];
                    for (out, row) in out.chunks_exact_mut(width).zip(part.chunks_exact(columns)) {
                        out[start..start + columns].copy_from_slice(row);
                    }
                    start += columns;
                }
            });
        };
        let tensors = parts.iter().map(|part| part.tensor()?.to_device(first.device())).collect::<Result<Vec<_>>>()?;
        Self::from_tensor(&Tensor::cat(&tensors, 1)?)
    }

    /// `run` of every number and that of `other` in its place, which may be one row for all. Elsewhere than on the CPU it is
    /// what `stock` does.
    ///
    /// # Errors
    /// An error when they do not fit.
    pub fn zip(
        mut self,
        other: &Self,
        run: impl Fn(f32, f32) -> f32,
        stock: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        let (count, each) = (self.dims.iter().product::<usize>(), other.dims.iter().product::<usize>());
        if each == 0 || !count.is_multiple_of(each) || self.dims.last() != other.dims.last() {
            bail!("{:?} do not fit {:?}", other.dims, self.dims);
        }
        match (&mut self.held, &other.held) {
            (Held::Numbers(numbers), Held::Numbers(others)) => {
                for row in numbers.0.chunks_exact_mut(each) {
                    row.iter_mut().zip(&others.0).for_each(|(a, b)| *a = run(*a, *b));
                }
                Ok(self)
            }
            _ => Self::from_tensor(&stock(&self.tensor()?, &other.tensor()?)?),
        }
    }

    /// The sum with `other`, which may be one row for all.
    ///
    /// # Errors
    /// An error when they do not fit.
    pub fn plus(self, other: &Self) -> Result<Self> {
        self.zip(other, |a, b| a + b, Tensor::broadcast_add)
    }
}

/// The numbers of an array on the CPU; none elsewhere.
impl Deref for Array {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.held {
            Held::Numbers(numbers) => &numbers.0,
            Held::Tensor(_) => &[],
        }
    }
}

/// What kernels take and make: our model's arrays, and the tensors of models whose other operations are candle's.
pub trait Values: Sized {
    /// The shape.
    fn dims(&self) -> &[usize];

    /// The numbers, if they are on the CPU.
    ///
    /// # Errors
    /// An error when they are not in order.
    fn here(&self) -> Result<Option<impl Deref<Target = [f32]>>>;

    /// New ones on the CPU.
    ///
    /// # Errors
    /// An error when there is none.
    fn make(dims: &[usize], fill: impl FnOnce(&mut [f32])) -> Result<Self>;

    /// As a tensor.
    ///
    /// # Errors
    /// Those of the device.
    fn to_tensor(&self) -> Result<Tensor>;

    /// From a tensor.
    ///
    /// # Errors
    /// Those of the device.
    fn of_tensor(tensor: Tensor) -> Result<Self>;
}

impl Values for Array {
    fn dims(&self) -> &[usize] {
        &self.dims
    }

    fn here(&self) -> Result<Option<impl Deref<Target = [f32]>>> {
        Ok(match &self.held {
            Held::Numbers(numbers) => Some(&numbers.0[..]),
            Held::Tensor(_) => None,
        })
    }

    fn make(dims: &[usize], fill: impl FnOnce(&mut [f32])) -> Result<Self> {
        Self::new(dims, &Device::Cpu, fill)
    }

    fn to_tensor(&self) -> Result<Tensor> {
        self.tensor()
    }

    fn of_tensor(tensor: Tensor) -> Result<Self> {
        Self::from_tensor(&tensor)
    }
}

impl Values for Tensor {
    fn dims(&self) -> &[usize] {
        Tensor::dims(self)
    }

    fn here(&self) -> Result<Option<impl Deref<Target = [f32]>>> {
        self.device().is_cpu().then(|| View::new(self)).transpose()
    }

    fn make(dims: &[usize], fill: impl FnOnce(&mut [f32])) -> Result<Self> {
        let mut numbers = vec![0.0; dims.iter().product()];
        fill(&mut numbers);
        Tensor::from_vec(numbers, dims, &Device::Cpu)
    }

    fn to_tensor(&self) -> Result<Tensor> {
        Ok(self.clone())
    }

    fn of_tensor(tensor: Tensor) -> Result<Self> {
        Ok(tensor)
    }
}

/// A kernel: `run` fills values of the shape `dims` from those of `x`; elsewhere than on the CPU it is what `stock` does.
///
/// # Errors
/// Those of the device.
pub(crate) fn apply<T: Values>(
    x: &T,
    dims: &[usize],
    run: impl FnOnce(&[f32], &mut [f32]),
    stock: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<T> {
    match x.here()? {
        Some(numbers) => T::make(dims, |out| run(&numbers, out)),
        None => T::of_tensor(stock(&x.to_tensor()?)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::ThreadPool;

    fn array(dims: &[usize]) -> Array {
        Array::new(dims, &Device::Cpu, |out| (0..).zip(out).for_each(|(i, v)| *v = i as f32)).unwrap()
    }

    #[test]
    fn numbers_are_left_to_the_next_of_their_length() {
        let (first, other) = (array(&[7, 11]), array(&[5]));
        let numbers = first.to_vec();
        drop(first);
        drop(other);
        let copy =
            Array::new(&[11, 7], &Device::Cpu, |out| assert_eq!(out, numbers, "its numbers are still there")).unwrap();
        let second = copy.clone();
        assert!(second.as_ptr() != copy.as_ptr() && second[..] == copy[..], "a copy has its own");
    }

    #[test]
    fn a_thread_keeps_so_many_buffers_and_no_more() {
        let many: Vec<_> = (0..2 * MOST).map(|i| array(&[i + 1])).collect();
        drop(many);
        assert_eq!(SPARE.with_borrow(Vec::len), MOST);
    }

    #[test]
    fn two_are_what_each_would_be() {
        let two = |threads, dims: &[usize], fail: Option<usize>| {
            ThreadPool::new(threads).unwrap().install(|| {
                Array::two(dims, &Device::Cpu, |which| match fail {
                    Some(failing) if failing == which => Err(candle_core::Error::msg(format!("{which} failed"))),
                    _ => array(&[3, 40]).plus(&array(&[3, 40]).part(which, &[1, 40])?),
                })
            })
        };
        for threads in [1, 2, 3] {
            let [first, second] = two(threads, &[3, 40], None).unwrap();
            assert_eq!((first[41], second[41]), (42.0, 43.0));
            for failing in [0, 1] {
                let error = two(threads, &[3, 40], Some(failing)).err().unwrap().to_string();
                assert!(error.contains(&format!("{failing} failed")), "{error}");
            }
            assert!(two(threads, &[40, 3], None).is_err());
        }
    }

    #[test]
    fn parts_columns_and_sums_are_those_of_candle() {
        let (a, b, row) = (array(&[3, 2]), array(&[3, 4]), array(&[1, 2]));
        let tensor = |array: &Array| array.tensor().unwrap();
        let rows = |tensor: Tensor| tensor.to_vec2::<f32>().unwrap();
        let cat = Tensor::cat(&[tensor(&a), tensor(&b)], 1).unwrap();
        assert_eq!(rows(tensor(&Array::columns(&[&a, &b]).unwrap())), rows(cat));
        let part = tensor(&b).flatten_all().unwrap().narrow(0, 3, 6).unwrap().reshape((2, 3)).unwrap();
        assert_eq!(rows(tensor(&b.part(3, &[2, 3]).unwrap())), rows(part));
        let sum = tensor(&a).broadcast_add(&tensor(&row)).unwrap();
        assert_eq!(rows(tensor(&a.clone().plus(&row).unwrap())), rows(sum));
        assert!(a.clone().plus(&b).is_err() && a.part(4, &[3]).is_err() && a.clone().reshape(&[5]).is_err());
        assert!(Array::columns(&[&a, &array(&[2, 2])]).is_err());
        assert_eq!(Array::from_tensor(&tensor(&a)).unwrap()[..], a[..]);
    }
}
