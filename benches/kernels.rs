//! The kernels on the shapes of `models/overworld`: products beside stock candle's, blocks as they ship, and their parts.

use std::borrow::Cow;
use std::hint::black_box;

use bevy_dream::kernel::{
    Activation, Array, Block, Conv3x3, FLOW_DIM, KeyValues, Linear, MODULATIONS, Past, Rope, ThreadPool, attention,
    norm_modulate,
};
use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const THREADS: usize = 2;

/// Tokens of a chunk, their width and their heads.
const TOKENS: usize = 64;
const WIDTH: usize = 256;
const HEADS: usize = 4;

/// Chunks that a temporal block sees.
const PAST: usize = 7;

/// Name, rows, inputs and outputs of every kind of layer.
const LAYERS: [(&str, usize, usize, usize); 8] = [
    ("qkv", 64, 256, 768),
    ("proj", 64, 256, 256),
    ("fc1", 64, 256, 1024),
    ("fc2", 64, 1024, 256),
    ("patch_in", 64, 96, 256),
    ("patch_out", 64, 256, 32),
    ("dec_out", 1024, 64, 144),
    ("ada", 3, 128, 12288),
];

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).expect("a tensor")
}

/// Weights as a model has them: exact in 16 bits.
fn weight(shape: &[usize]) -> Tensor {
    let half = random(shape).to_dtype(candle_core::DType::F16).expect("a tensor");
    half.to_dtype(candle_core::DType::F32).expect("a tensor")
}

fn layers(c: &mut Criterion) {
    let pool = ThreadPool::new(THREADS).expect("threads");
    let mut group = c.benchmark_group("linear");
    for (name, rows, inputs, outputs) in LAYERS {
        // Many layers in turn, as in a model: their weights do not stay in a cache.
        let weights: Vec<_> = (0..16).map(|_| weight(&[outputs, inputs])).collect();
        let ours: Vec<_> = weights.iter().map(|w| Linear::new(w, None).expect("a layer")).collect();
        let stock: Vec<_> = weights.iter().map(|w| w.t().and_then(|w| w.contiguous()).expect("a weight")).collect();
        let x = random(&[rows, inputs]);
        group.throughput(Throughput::Elements((2 * rows * inputs * outputs) as u64));
        let mut turn = (0..weights.len()).cycle();
        let mut next = || turn.next().expect("endless");
        group.bench_function(BenchmarkId::new("ours", name), |b| {
            pool.install(|| b.iter(|| ours[next()].forward(black_box(&x), Activation::None).expect("a product")));
        });
        let rounded: Vec<_> = ours.into_iter().map(Linear::into_int8).collect();
        group.bench_function(BenchmarkId::new("int8", name), |b| {
            pool.install(|| b.iter(|| rounded[next()].forward(black_box(&x), Activation::None).expect("a product")));
        });
        group.bench_function(BenchmarkId::new("candle", name), |b| {
            b.iter(|| black_box(&x).matmul(&stock[next()]).expect("a product"));
        });
    }
}

fn convolution(c: &mut Criterion) {
    let pool = ThreadPool::new(THREADS).expect("threads");
    let (w, bias, x) = (weight(&[64, 64, 3, 3]), random(&[64]), random(&[32, 32, 64]));
    let conv = Conv3x3::new(&w, &bias).expect("a layer");
    let chw = x.permute((2, 0, 1)).and_then(|x| x.unsqueeze(0)).and_then(|x| x.contiguous()).expect("a picture");
    let mut group = c.benchmark_group("conv3x3");
    group.throughput(Throughput::Elements(2 * 9 * 64 * 64 * 32 * 32));
    group.bench_function("ours", |b| {
        let (before, after) = (Activation::Silu, Activation::Silu);
        pool.install(|| b.iter(|| conv.forward(black_box(&x), before, after, None).expect("a picture")));
    });
    group.bench_function("candle", |b| b.iter(|| black_box(&chw).conv2d(&w, 1, 1, 1, 1).expect("a picture")));
}

fn array(shape: &[usize]) -> Array {
    Array::from_tensor(&random(shape)).expect("an array")
}

/// What a block remembers of chunks.
fn remembered() -> Vec<KeyValues> {
    let one = |_| {
        let (keys, values, features) = (array(&[TOKENS, WIDTH]), array(&[TOKENS, WIDTH]), array(&[TOKENS, FLOW_DIM]));
        KeyValues::new(&keys, &values, HEADS, Some(&features)).expect("a segment")
    };
    (0..PAST).map(one).collect()
}

fn seen(keys: &[KeyValues]) -> Vec<Past<'_>> {
    keys.iter().map(|keys| Past { keys, features: Cow::Owned(array(&[HEADS, TOKENS, FLOW_DIM])) }).collect()
}

fn block() -> Block {
    let linear = |inputs: usize, outputs: usize, bias: bool| {
        let bias = bias.then(|| random(&[outputs]));
        let scaled = (weight(&[outputs, inputs]) * (inputs as f64).powf(-0.5)).expect("a weight");
        Linear::new(&scaled, bias.as_ref()).expect("a layer").into_int8()
    };
    let head_dim = WIDTH / HEADS;
    Block {
        qkv: linear(WIDTH, 3 * WIDTH, false),
        q_norm: random(&[head_dim]),
        k_norm: random(&[head_dim]),
        proj: linear(WIDTH, WIDTH, false),
        fc1: linear(WIDTH, 4 * WIDTH, true),
        fc2: linear(4 * WIDTH, WIDTH, true),
    }
}

/// Blocks as they ship, at 8 bits, that see the past or do not, and what is in them beside products.
fn blocks(c: &mut Criterion) {
    let pool = ThreadPool::new(THREADS).expect("threads");
    // Several in turn, as in a model.
    let blocks: Vec<_> = (0..8).map(|_| block()).collect();
    let (x, modulation) = (array(&[TOKENS, WIDTH]), array(&[MODULATIONS * WIDTH]));
    let angle = random(&[TOKENS, WIDTH / HEADS / 2]);
    let [cos, sin] = [angle.cos(), angle.sin()].map(|x| x.and_then(|x| Array::from_tensor(&x)).expect("angles"));
    let rope = Rope { cos, sin };
    let keys = remembered();
    let past = seen(&keys);
    let mut turn = (0..blocks.len()).cycle();
    let mut next = || turn.next().expect("endless");
    let mut group = c.benchmark_group("block");
    for (name, past) in [("spatial", &[][..]), ("temporal", &past)] {
        group.bench_function(name, |b| {
            pool.install(|| {
                b.iter(|| blocks[next()].forward(black_box(&x), &modulation, &rope, past).expect("tokens"));
            });
        });
    }
    group.bench_function("attention", |b| {
        pool.install(|| b.iter(|| attention(black_box(&x), &keys[0], &past).expect("tokens")));
    });
    let shift_and_scale = array(&[2 * WIDTH]);
    group.bench_function("norm", |b| {
        pool.install(|| b.iter(|| norm_modulate(black_box(&x), &shift_and_scale).expect("tokens")));
    });
    group.finish();
}

criterion_group!(benches, layers, convolution, blocks);
criterion_main!(benches);
