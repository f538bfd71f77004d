//! The kernels on the shapes of `models/overworld`, each beside stock candle's matrix product.

use std::hint::black_box;

use bevy_dream::kernel::{Activation, Conv3x3, Linear, ThreadPool};
use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const THREADS: usize = 2;

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

criterion_group!(benches, layers, convolution);
criterion_main!(benches);
