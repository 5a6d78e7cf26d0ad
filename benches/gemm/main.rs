//! GFLOP/s of matrix products, in f32 and bf16, beside the crate `gemm` and any BLAS library, at one and two threads:
//! layers of ViT-B/16 and ViT-S/16 and the three products of a linear layer (forward, gradient of the input, gradient
//! of the weight). `cargo bench --bench gemm -- --blas libopenblas.so.0 --blas /path/to/libmkl_rt.so.2`.
//!
//! All take turns, and each number is the fastest of many products. The limit is the rate of the multiply-add
//! instructions on registers. `--seconds S` is the time for a shape; `--all` measures every kernel of ours that this
//! processor has instructions for, e.g. AVX2 on a processor with AVX-512. `--out FILE` also writes the numbers as JSON.
//!
//! Libraries that choose kernels by the vendor of the processor may be slow elsewhere; variables of the environment
//! such as `OPENBLAS_CORETYPE=SkylakeX` change that.

#[cfg_attr(not(unix), path = "no_blas.rs")]
mod blas;

use bench::ops::{Precision, ProductKernel};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// After a product with several threads a BLAS library keeps its threads spinning for more, MKL for 0.2 s. The next
/// contender waits until they sleep, so that it has all cores to itself.
const UNTIL_THREADS_SLEEP: Duration = Duration::from_millis(300);

/// Rows and columns of the product, depth, and whether the left and right operands are stored transposed.
type Shape = (&'static str, [usize; 3], (bool, bool));

const SHAPES: [Shape; 6] = [
    ("1576×768×2304", [1576, 2304, 768], (false, false)),
    ("1576×3072×768", [1576, 768, 3072], (false, false)),
    ("400×384×1536", [400, 1536, 384], (false, false)),
    ("linear 384→1536", [1576, 1536, 384], (false, false)),
    ("  input gradient", [1576, 384, 1536], (false, true)),
    ("  weight gradient", [1536, 384, 1576], (true, true)),
];

fn main() {
    bench::process::prepare_process();
    let options = Options::parse();
    let mut contenders = options.kernels();
    contenders.push(Contender::Crate);
    contenders.extend(options.blas.iter().map(|path| Contender::Blas(blas::open(path))));
    let mut tables = Vec::new();
    for threads in options.threads.iter().copied() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        match pool {
            Ok(pool) => tables.push(pool.install(|| table(&contenders, threads, options.time))),
            Err(error) => exit(&format!("{threads} threads: {error}")),
        }
    }
    if let Some(path) = options.out {
        let record = json!({
            "processor": processor(),
            "bench": env!("BENCH_VERSION"),
            "environment": environment(),
            "seconds_a_shape": options.time.as_secs_f64(),
            "gflops": tables,
        });
        if let Err(error) = std::fs::write(&path, format!("{record:#}\n")) {
            exit(&format!("{}: {error}", path.display()));
        }
    }
}

/// What Linux tells of the first processor: vendor, family, model and name; null on other systems.
fn processor() -> Value {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of = |key: &str| {
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    json!({ "vendor": of("vendor_id"), "family": of("cpu family"), "model": of("model"), "name": of("model name") })
}

/// The variables of the environment by which BLAS libraries choose their kernels.
fn environment() -> Value {
    let names = ["BLIS_ARCH_TYPE", "MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_CORETYPE"];
    names.iter().filter_map(|name| Some(((*name).to_owned(), json!(std::env::var(name).ok()?)))).collect()
}

/// Prints GFLOP/s of every contender at every shape, and returns them.
fn table(contenders: &[Contender], threads: usize, time: Duration) -> Value {
    print!("\n{:<18}", format!("{threads} threads"));
    contenders.iter().for_each(|contender| print!("{:>16}", contender.name()));
    println!();
    let mut logarithms = vec![0f64; contenders.len()];
    let mut rows = Vec::new();
    for (name, sizes, transposed) in SHAPES {
        let rates = measure(contenders, threads, time, sizes, transposed);
        let cells =
            contenders.iter().zip(&rates).map(|(contender, &rate)| (contender.name(), json!(rate.round())));
        rows.push(json!({ "product": name.trim(), "m_n_k": sizes, "rates": cells.collect::<serde_json::Map<_, _>>() }));
        print!("{name:<18}");
        for (rate, logarithm) in rates.into_iter().zip(&mut logarithms) {
            print!("{rate:>16.1}");
            *logarithm += rate.ln() / SHAPES.len() as f64;
        }
        println!();
    }
    print!("{:<18}", "geometric mean");
    logarithms.iter().for_each(|logarithm| print!("{:>16.1}", logarithm.exp()));
    print!("\n{:<18}", "× our f32");
    let own = contenders.iter().zip(&logarithms).find(|(contender, _)| contender.is_default_f32());
    let own = own.map_or(f64::NAN, |(_, &logarithm)| logarithm);
    logarithms.iter().for_each(|logarithm| print!("{:>16.2}", (logarithm - own).exp()));
    print!("\n{:<18}", "limit");
    for contender in contenders {
        match contender.limit() {
            Some(limit) => print!("{:>16.1}", limit * threads as f64),
            None => print!("{:>16}", "–"),
        }
    }
    print!("\n{:<18}", "share of the limit");
    for (contender, logarithm) in contenders.iter().zip(&logarithms) {
        match contender.limit() {
            Some(limit) => print!("{:>16.2}", logarithm.exp() / (limit * threads as f64)),
            None => print!("{:>16}", "–"),
        }
    }
    println!();
    let limits = contenders.iter().map(|contender| {
        (contender.name(), json!(contender.limit().map(|limit| (limit * threads as f64).round())))
    });
    json!({ "threads": threads, "limits": limits.collect::<serde_json::Map<_, _>>(), "products": rows })
}

fn measure(
    contenders: &[Contender],
    threads: usize,
    time: Duration,
    [m, n, k]: [usize; 3],
    (left_transposed, right_transposed): (bool, bool),
) -> Vec<f64> {
    let wave = |count: usize, f: f32| (0..count).map(|i| (i as f32 * f).sin()).collect::<Vec<f32>>();
    let (left, right, mut destination) = (wave(m * k, 0.3), wave(n * k, 0.7), vec![0f32; m * n]);
    let product = Product { left: &left, left_transposed, right: &right, right_transposed, sizes: [m, n, k] };
    let mut best = vec![Duration::MAX; contenders.len()];
    let start = Instant::now();
    while start.elapsed() < time || best.contains(&Duration::MAX) {
        for (contender, best) in contenders.iter().zip(&mut best) {
            // The first product fetches the code and the memory of this contender.
            for _ in 0..3 {
                let begin = Instant::now();
                contender.multiply(&product, &mut destination, threads);
                *best = (*best).min(begin.elapsed());
            }
            if threads > 1 && matches!(contender, Contender::Blas(_)) {
                std::thread::sleep(UNTIL_THREADS_SLEEP);
            }
        }
    }
    best.iter().map(|best| 2e-9 * (m * n * k) as f64 / best.as_secs_f64()).collect()
}

/// [m, n] = left · rightᵀ, of `left` [m, k] and `right` [n, k].
struct Product<'a> {
    left: &'a [f32],
    left_transposed: bool,
    right: &'a [f32],
    right_transposed: bool,
    sizes: [usize; 3],
}

enum Contender {
    Own(ProductKernel),
    Crate,
    Blas(blas::Library),
}

impl Contender {
    fn name(&self) -> String {
        match self {
            Self::Own(kernel) => {
                let precision = if kernel.precision() == Precision::F32 { "f32" } else { "bf16" };
                format!("{precision} {}", kernel.instructions().split(' ').next().unwrap_or_default())
            }
            Self::Crate => "gemm".to_owned(),
            Self::Blas(library) => library.name.clone(),
        }
    }

    fn is_default_f32(&self) -> bool {
        let name = |kernel: &ProductKernel| (kernel.precision(), kernel.instructions());
        matches!(self, Self::Own(kernel) if name(kernel) == name(&ProductKernel::of(Precision::F32)))
    }

    fn limit(&self) -> Option<f64> {
        match self {
            Self::Own(kernel) => kernel.limit(),
            _ => ProductKernel::of(Precision::F32).limit(),
        }
    }

    fn multiply(&self, product: &Product, destination: &mut [f32], threads: usize) {
        let Product { left, left_transposed, right, right_transposed, sizes } = *product;
        let [m, n, k] = sizes;
        match self {
            Self::Own(kernel) => {
                kernel.multiply((left, left_transposed), (right, right_transposed), destination, sizes);
            }
            Self::Crate => {
                // Strides of the lane and of the depth.
                let steps = |transposed, lanes: usize| if transposed { (1, lanes) } else { (k, 1) };
                let ((left_lane, left_depth), (right_lane, right_depth)) =
                    (steps(left_transposed, m), steps(right_transposed, n));
                let parallelism = match threads {
                    1 => gemm::Parallelism::None,
                    threads => gemm::Parallelism::Rayon(threads),
                };
                assert!(left.len() >= m * k && right.len() >= n * k && destination.len() >= m * n);
                // SAFETY: the matrices lie within their values.
                unsafe {
                    gemm::gemm(
                        m,
                        n,
                        k,
                        destination.as_mut_ptr(),
                        1,
                        n as isize,
                        false,
                        left.as_ptr(),
                        left_depth as isize,
                        left_lane as isize,
                        right.as_ptr(),
                        right_lane as isize,
                        right_depth as isize,
                        0.,
                        1.,
                        false,
                        false,
                        false,
                        parallelism,
                    );
                }
            }
            Self::Blas(library) => library.multiply(product, destination, threads),
        }
    }
}

struct Options {
    blas: Vec<String>,
    threads: Vec<usize>,
    time: Duration,
    all: bool,
    out: Option<PathBuf>,
}

impl Options {
    fn parse() -> Self {
        let mut options =
            Self { blas: vec![], threads: vec![1, 2], time: Duration::from_secs(2), all: false, out: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_else(|| exit(&format!("{word} needs a value")));
            match word.as_str() {
                "--blas" => options.blas.push(value()),
                "--threads" => options.threads = value().split(',').map(number).collect(),
                "--seconds" => options.time = Duration::from_secs_f64(number(&value())),
                "--all" => options.all = true,
                "--out" => options.out = Some(PathBuf::from(value())),
                // Added by cargo.
                "--bench" => {}
                _ => {
                    exit(&format!("unknown option {word}; use --blas, --threads, --seconds, --all or --out"))
                }
            }
        }
        options
    }

    fn kernels(&self) -> Vec<Contender> {
        let kernels = match self.all {
            true => ProductKernel::all(),
            false => [Precision::F32, Precision::Bf16].map(ProductKernel::of).to_vec(),
        };
        kernels.into_iter().map(Contender::Own).collect()
    }
}

fn number<T: std::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| exit(&format!("{word} is no number")))
}

fn exit(message: &str) -> ! {
    eprintln!("{message}");
    std::process::exit(2)
}
