//! The layers, over frames `[height, width, channels]`.

use candle_core::{Result as TensorResult, Tensor};

use crate::Result;
use crate::checkpoint::Vars;
use crate::kernel::{Activation, Conv3x3, Linear};

/// What each layer keeps for the next frames: the last frame, or those that still wait for others.
pub type Past = Vec<Vec<Tensor>>;

/// Layers in a row.
pub struct Network(Vec<Block>);

enum Block {
    /// `3 tanh(x / 3)`.
    Clamp,
    Relu,
    Conv(Conv3x3),
    /// A 3 x 3 convolution that halves width and height.
    Halve(Tensor),
    /// A 1 x 1 convolution.
    Pointwise(Linear),
    Memory(MemBlock),
    SuperMemory(SuperMemBlock),
    /// So many frames to one.
    Pool(Linear, usize),
    /// One frame to so many.
    Grow(Linear, usize),
    /// Each pixel becomes a square of this side.
    Upsample(usize),
    /// The channels of each pixel become a square of this side.
    Shuffle(usize),
}

/// `relu(conv4(relu(conv2(relu(conv0(x, before))))) + x)`.
struct MemBlock {
    conv0: Conv3x3,
    conv2: Conv3x3,
    conv4: Conv3x3,
}

impl MemBlock {
    fn forward(&self, x: &Tensor, before: &Tensor) -> TensorResult<Tensor> {
        let h = conv(&self.conv0, &Tensor::cat(&[x, before], 2)?)?.relu()?;
        let h = conv(&self.conv2, &h)?.relu()?;
        self.conv4.forward(&h, Activation::None, Activation::None, Some(x))?.relu()
    }
}

/// `conv3(relu(conv1(depthwise(x, before)))) + x`.
struct SuperMemBlock {
    /// `[2 width, 1, 7, 7]`.
    depthwise: Tensor,
    conv1: Linear,
    conv3: Linear,
}

impl SuperMemBlock {
    fn forward(&self, x: &Tensor, before: &Tensor) -> TensorResult<Tensor> {
        let h = stock_conv(&Tensor::cat(&[x, before], 2)?, &self.depthwise, 1)?;
        let h = pointwise(&self.conv1, &h)?.relu()?;
        pointwise(&self.conv3, &h)? + x
    }
}

impl Network {
    /// Sends the next `frames` of a clip through the layers.
    pub fn forward(&self, frames: Vec<Tensor>, past: &mut Past) -> TensorResult<Vec<Tensor>> {
        past.resize(self.0.len(), Vec::new());
        self.0.iter().zip(past).try_fold(frames, |frames, (block, past)| block.forward(frames, past))
    }

    /// By how much it stretches or shortens time.
    pub fn time_scale(&self) -> usize {
        let scale = |block: &Block| match block {
            Block::Pool(_, n) | Block::Grow(_, n) => *n,
            _ => 1,
        };
        self.0.iter().map(scale).product()
    }

    /// By how much it stretches or shortens width and height.
    pub fn space_scale(&self) -> usize {
        let scale = |block: &Block| match block {
            Block::Halve(_) => 2,
            Block::Upsample(n) | Block::Shuffle(n) => *n,
            _ => 1,
        };
        self.0.iter().map(scale).product()
    }
}

impl Block {
    fn forward(&self, frames: Vec<Tensor>, past: &mut Vec<Tensor>) -> TensorResult<Vec<Tensor>> {
        let each = |f: &dyn Fn(&Tensor) -> TensorResult<Tensor>| frames.iter().map(f).collect();
        match self {
            Self::Clamp => each(&|x| (x / 3.0)?.tanh()? * 3.0),
            Self::Relu => each(&Tensor::relu),
            Self::Conv(layer) => each(&|x| conv(layer, x)),
            Self::Halve(weight) => each(&|x| stock_conv(x, weight, 2)),
            Self::Pointwise(layer) => each(&|x| pointwise(layer, x)),
            Self::Memory(block) => remember(frames, past, |x, before| block.forward(x, before)),
            Self::SuperMemory(block) => remember(frames, past, |x, before| block.forward(x, before)),
            Self::Pool(layer, n) => {
                past.extend(frames);
                let whole: Vec<_> = past.drain(..past.len() / n * n).collect();
                whole.chunks(*n).map(|frames| pointwise(layer, &Tensor::cat(frames, 2)?)).collect()
            }
            Self::Grow(layer, n) => {
                let grown =
                    frames.iter().map(|x| pointwise(layer, x)?.chunk(*n, 2)).collect::<TensorResult<Vec<_>>>()?;
                grown.iter().flatten().map(Tensor::contiguous).collect()
            }
            Self::Upsample(n) => each(&|x| upsample(x, *n)),
            Self::Shuffle(n) => each(&|x| shuffle(x, *n)),
        }
    }
}

/// `forward` of each frame and the one before it, zeros before the first.
fn remember(
    frames: Vec<Tensor>,
    past: &mut Vec<Tensor>,
    forward: impl Fn(&Tensor, &Tensor) -> TensorResult<Tensor>,
) -> TensorResult<Vec<Tensor>> {
    let step = |x: Tensor| {
        let before = past.pop().map_or_else(|| x.zeros_like(), Ok)?;
        let y = forward(&x, &before)?;
        past.push(x);
        Ok(y)
    };
    frames.into_iter().map(step).collect()
}

fn conv(layer: &Conv3x3, x: &Tensor) -> TensorResult<Tensor> {
    layer.forward(x, Activation::None, Activation::None, None)
}

fn pointwise(layer: &Linear, x: &Tensor) -> TensorResult<Tensor> {
    let (height, width, channels) = x.dims3()?;
    let y = layer.forward(&x.reshape((height * width, channels))?, Activation::None)?;
    y.reshape((height, width, layer.outputs()))
}

/// A convolution of a square kernel of odd side, over each channel alone if the weight has only one.
fn stock_conv(x: &Tensor, weight: &Tensor, stride: usize) -> TensorResult<Tensor> {
    let (_, inputs, side, _) = weight.dims4()?;
    let x = x.permute((2, 0, 1))?.unsqueeze(0)?.contiguous()?;
    let y = x.conv2d(weight, side / 2, stride, 1, x.dim(1)? / inputs)?;
    y.squeeze(0)?.permute((1, 2, 0))?.contiguous()
}

fn upsample(x: &Tensor, n: usize) -> TensorResult<Tensor> {
    let (height, width, channels) = x.dims3()?;
    let x = x.reshape((height, 1, width, 1, channels))?.broadcast_as((height, n, width, n, channels))?;
    x.contiguous()?.reshape((height * n, width * n, channels))
}

/// `[height, width, channels * n * n]` to `[height * n, width * n, channels]`, as PyTorch's `pixel_shuffle`.
pub fn shuffle(x: &Tensor, n: usize) -> TensorResult<Tensor> {
    let (height, width, numbers) = x.dims3()?;
    let channels = numbers / (n * n);
    let x = x.reshape((height, width, channels, n, n))?.permute((0, 3, 1, 4, 2))?.contiguous()?;
    x.reshape((height * n, width * n, channels))
}

/// The inverse of [`shuffle`].
pub fn unshuffle(x: &Tensor, n: usize) -> TensorResult<Tensor> {
    let (height, width, channels) = x.dims3()?;
    let x = x.reshape((height / n, n, width / n, n, channels))?.permute((0, 2, 4, 1, 3))?.contiguous()?;
    x.reshape((height / n, width / n, channels * n * n))
}

/// Loads layers one after the other. Their published names are their places in the row.
pub struct Builder<'a> {
    vars: Vars<'a>,
    blocks: Vec<Block>,
    /// Channels after the last layer.
    width: usize,
}

impl<'a> Builder<'a> {
    /// A network that takes frames of `width` channels, which `field` of the config makes.
    pub fn new(vars: &Vars<'a>, width: usize, field: &'static str) -> Self {
        Self { vars: vars.sized_by(field), blocks: Vec::new(), width }
    }

    /// The network.
    pub fn finish(self) -> Network {
        Network(self.blocks)
    }

    pub fn clamp(&mut self) {
        self.blocks.push(Block::Clamp);
    }

    pub fn relu(&mut self) {
        self.blocks.push(Block::Relu);
    }

    pub fn upsample(&mut self, doubles: bool) {
        self.blocks.push(Block::Upsample(1 + usize::from(doubles)));
    }

    /// A convolution to as many channels as its weight has rows.
    pub fn conv(&mut self) -> Result<()> {
        self.conv_to(self.size("weight", 0)?)
    }

    /// The last convolution, to as many channels as `field` of the config makes.
    pub fn last(&mut self, outputs: usize, field: &'static str) -> Result<()> {
        if self.size("weight", 0)? != outputs {
            self.vars = self.vars.sized_by(field);
        }
        self.conv_to(outputs)
    }

    fn conv_to(&mut self, outputs: usize) -> Result<()> {
        let conv = self.vars.conv3x3(&self.place(), self.width, outputs)?;
        self.push(Block::Conv(conv), outputs);
        Ok(())
    }

    pub fn conv_no_bias(&mut self) -> Result<()> {
        let outputs = self.size("weight", 0)?;
        let weight = self.here().tensor("weight", &[outputs, self.width, 3, 3])?;
        let bias = Tensor::zeros(outputs, weight.dtype(), weight.device())?;
        self.push(Block::Conv(Conv3x3::new(&weight, &bias)?), outputs);
        Ok(())
    }

    pub fn halve(&mut self) -> Result<()> {
        let outputs = self.size("weight", 0)?;
        let weight = self.here().tensor("weight", &[outputs, self.width, 3, 3])?;
        self.push(Block::Halve(weight), outputs);
        Ok(())
    }

    pub fn pointwise(&mut self) -> Result<()> {
        let outputs = self.size("weight", 0)?;
        let weight = self.here().tensor("weight", &[outputs, self.width, 1, 1])?;
        self.push(Block::Pointwise(Linear::new(&weight.flatten_from(1)?, None)?), outputs);
        Ok(())
    }

    pub fn conv_relu_shuffle(&mut self, doubles: bool) -> Result<()> {
        let side = 1 + usize::from(doubles);
        let outputs = self.size("weight", 0)?.div_ceil(side * side);
        self.conv_to(outputs.saturating_mul(side * side))?;
        self.relu();
        self.push(Block::Shuffle(side), outputs);
        Ok(())
    }

    /// A layer that makes one frame of two, or of one, as its weight tells.
    pub fn pool(&mut self) -> Result<()> {
        let width = self.width;
        let stride = if self.size("conv.weight", 1)? == 2 * width { 2 } else { 1 };
        let weight = self.here().tensor("conv.weight", &[width, stride * width, 1, 1])?;
        self.push(Block::Pool(Linear::new(&weight.flatten_from(1)?, None)?, stride), width);
        Ok(())
    }

    /// A layer that makes two frames of one if it `doubles`, by default if its weight can. If it can but should not, its
    /// last rows make the one frame.
    pub fn grow(&mut self, doubles: Option<bool>) -> Result<()> {
        let width = self.width;
        let can = self.size("conv.weight", 0)? == 2 * width;
        let stride = 1 + usize::from(doubles.unwrap_or(can));
        let rows = if can { 2 * width } else { stride * width };
        let weight = self.here().tensor("conv.weight", &[rows, width, 1, 1])?.flatten_from(1)?;
        let weight = weight.narrow(0, rows - stride * width, stride * width)?;
        self.push(Block::Grow(Linear::new(&weight, None)?, stride), width);
        Ok(())
    }

    pub fn memory(&mut self) -> Result<()> {
        let (vars, width) = (self.here().pp("conv"), self.width);
        let block = MemBlock {
            conv0: vars.conv3x3("0", 2 * width, width)?,
            conv2: vars.conv3x3("2", width, width)?,
            conv4: vars.conv3x3("4", width, width)?,
        };
        self.push(Block::Memory(block), width);
        Ok(())
    }

    pub fn super_memory(&mut self) -> Result<()> {
        let (vars, width) = (self.here().pp("conv"), self.width);
        let wide = vars.tensor("1.weight", &[4 * width, 2 * width, 1, 1])?.flatten_from(1)?;
        let narrow = vars.tensor("3.weight", &[width, 4 * width, 1, 1])?.flatten_from(1)?;
        let block = SuperMemBlock {
            depthwise: vars.tensor("0.weight", &[2 * width, 1, 7, 7])?,
            conv1: Linear::new(&wide, Some(&vars.tensor("1.bias", &[4 * width])?))?,
            conv3: Linear::new(&narrow, None)?,
        };
        self.push(Block::SuperMemory(block), width);
        Ok(())
    }

    fn push(&mut self, block: Block, width: usize) {
        self.blocks.push(block);
        self.vars = self.vars.sized_by("what comes before it");
        self.width = width;
    }

    fn place(&self) -> String {
        self.blocks.len().to_string()
    }

    /// The tensors of the next layer.
    fn here(&self) -> Vars<'a> {
        self.vars.pp(self.place())
    }

    /// One size of a tensor of the next layer; 1 where there is none, which no tensor will then fit.
    fn size(&self, name: &str, axis: usize) -> Result<usize> {
        Ok(self.here().shape(name)?.get(axis).map_or(1, |n| (*n).max(1)))
    }
}
