//! The linear kernels of every instruction set at hand against plain arithmetic.

use super::packed::tests::noise;
use super::portable::nearest;
use super::*;
use crate::memory::Shared;
use crate::team::Team;

fn isas() -> impl Iterator<Item = &'static Kernels> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available()).map(Kernels::of)
}

/// Sums of a layer whose quantised weights and activations are known, exactly.
#[test]
fn all_kernels_sum_exactly() {
    let (inputs, outputs) = (1100, 45);
    for kernels in isas() {
        let (most, act_max) = (kernels.pair_limit.unwrap_or(254) / 2, kernels.act_max);
        // The extremes on both sides, in every combination of signs.
        let weights: Vec<f32> = noise(inputs * outputs, 2)
            .into_iter()
            .enumerate()
            .map(|(at, w)| match (at % inputs, w) {
                (0, _) => f32::from(most),
                (_, w) if w.abs() > 0.6 => f32::from(most).copysign(w),
                (_, w) => nearest(w * f32::from(most)),
            })
            .collect();
        let parts = [Matrix { weight: &weights, bias: None }];
        let packed = Packed::new(&parts, inputs, false, kernels, &mut Team::new(1));
        for rows in [1, 2, 3, 4, 5, 6, 13, 14, 15, 30, 71, 130] {
            let acts: Vec<u8> = noise(rows * inputs, 3)
                .into_iter()
                .map(|x| if x > 0.6 { act_max } else { (x.abs() * f32::from(act_max)) as u8 })
                .collect();
            check_sums(kernels, &packed, &weights, &acts, rows);
        }
    }
}

/// Scales of 1 and a zero of 7 make the outputs the sums themselves, as far as floats go.
fn check_sums(kernels: &Kernels, packed: &Packed, weights: &[f32], acts: &[u8], rows: usize) {
    let (inputs, outputs, padded) = (packed.inputs(), packed.outputs(), packed.padded_inputs());
    let mut tiled = vec![0u8; rows * padded];
    for (row, acts) in acts.chunks_exact(inputs).enumerate() {
        let (first, height) = Tiles::new(rows, kernels.tile_rows).holding(row);
        for (at, &act) in acts.iter().enumerate() {
            let chunk = first * padded + (at / CHUNK * height + row - first) * CHUNK;
            tiled[chunk + at % CHUNK] = act;
        }
    }
    let scales = vec![RowScale { scale: 1.0, zero: 7 }; rows];
    let mut out = vec![0.0; rows * outputs];
    let job = LinearJob {
        weights: packed,
        acts: tiled.as_ptr(),
        scales: scales.as_ptr(),
        rows,
        op: Op::Store,
        out: Shared::new(&mut out),
        stride: outputs,
    };
    for block in 0..packed.blocks() {
        // SAFETY: the buffers have the sizes that the job says, and one thread uses them.
        unsafe { (kernels.linear)(&job, block, packed.weights_of(block)) };
    }
    for (row, acts) in acts.chunks_exact(inputs).enumerate() {
        for (column, weights) in weights.chunks_exact(inputs).enumerate() {
            let sum: i64 =
                acts.iter().zip(weights).map(|(&a, &w)| (i64::from(a) - 7) * w as i64).sum();
            let got = out[row * outputs + column] / packed.scales[column];
            assert!((got - sum as f32).abs() <= sum.abs() as f32 * 1e-6, "{kernels:?} {got} {sum}");
        }
    }
}

#[test]
fn every_operation_gives_what_it_says() {
    let (inputs, rows, half) = (64, 9, 48);
    let (x, weights) = (noise(rows * inputs, 4), noise(2 * half * inputs, 5));
    let bias = noise(2 * half, 6);
    let parts = [Matrix { weight: &weights, bias: Some(&bias) }];
    let product = |row: usize, column: usize| {
        let (x, w) = (&x[row * inputs..], &weights[column * inputs..]);
        bias[column] + x.iter().zip(w).take(inputs).map(|(x, w)| x * w).sum::<f32>()
    };
    let sigmoid = |y: f32| 1.0 / (1.0 + (-y).exp());
    for kernels in isas() {
        for op in [Op::Store, Op::Relu, Op::Silu, Op::Glu, Op::Add(0.5)] {
            let glu = op == Op::Glu;
            let packed = Packed::new(&parts, inputs, glu, kernels, &mut Team::new(2));
            let outputs = packed.outputs();
            let out = apply(kernels, &packed, &x, rows, op);
            for (at, &got) in out.iter().enumerate() {
                let (row, column) = (at / outputs, at % outputs);
                let y = product(row, column);
                let expected = match op {
                    Op::Store => y,
                    Op::Relu => y.max(0.0),
                    Op::Silu => y * sigmoid(y),
                    Op::Glu => y * sigmoid(product(row, column + half)),
                    Op::Add(factor) => 3.0 + factor * y,
                };
                assert!((got - expected).abs() < 0.1, "{kernels:?} {op:?} {got} {expected}");
            }
        }
    }
}

/// Quantises `x` and applies the layer to rows that hold 3.
fn apply(kernels: &Kernels, packed: &Packed, x: &[f32], rows: usize, op: Op) -> Vec<f32> {
    let (inputs, outputs) = (packed.inputs(), packed.outputs());
    let mut acts = vec![0u8; rows * packed.padded_inputs()];
    let mut scales = Vec::new();
    for (row, x) in x.chunks_exact(inputs).enumerate() {
        let (first, height) = Tiles::new(rows, kernels.tile_rows).holding(row);
        let place = first * inputs + (row - first) * CHUNK;
        let to = QuantisedRow {
            n: inputs,
            to: acts[place..].as_mut_ptr(),
            stride: height * CHUNK,
            act_max: kernels.act_max,
        };
        // SAFETY: the row's chunks lie inside `acts`.
        scales.push(unsafe { (kernels.quantise)(x.as_ptr(), &to) });
    }
    let mut out = vec![3.0; rows * outputs];
    let (acts, scales) = (acts.as_ptr(), scales.as_ptr());
    let shared = Shared::new(&mut out);
    let job = LinearJob { weights: packed, acts, scales, rows, op, out: shared, stride: outputs };
    for block in 0..packed.blocks() {
        // SAFETY: the buffers have the sizes that the job says, and one thread uses them.
        unsafe { (kernels.linear)(&job, block, packed.weights_of(block)) };
    }
    out
}
