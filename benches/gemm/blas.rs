//! Libraries with the C interface of BLAS, loaded at run time.

use super::{Product, exit};
use std::ffi::{CStr, CString, c_void};

/// `cblas_sgemm`.
type Sgemm = unsafe extern "C" fn(
    i32,
    i32,
    i32,
    i32,
    i32,
    i32,
    f32,
    *const f32,
    i32,
    *const f32,
    i32,
    f32,
    *mut f32,
    i32,
);

/// A BLAS library with the C interface.
pub struct Library {
    pub name: String,
    sgemm: Sgemm,
    set_threads: Option<unsafe extern "C" fn(i32)>,
}

/// Loads the library at `path`, or of that name in the folders of the system.
pub fn open(path: &str) -> Library {
    let Ok(file) = CString::new(path) else { exit("a path with a zero byte") };
    // SAFETY: a BLAS library does nothing harmful when it is loaded; the names end with a zero byte.
    unsafe {
        let handle = libc::dlopen(file.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        if handle.is_null() {
            exit(&CStr::from_ptr(libc::dlerror()).to_string_lossy());
        }
        let find = |names: &[&CStr]| {
            let places = names.iter().map(|name| libc::dlsym(handle, name.as_ptr()));
            places.into_iter().find(|place| !place.is_null())
        };
        // With the prefix in the Python package of OpenBLAS.
        let Some(sgemm) = find(&[c"cblas_sgemm", c"scipy_cblas_sgemm"]) else {
            exit(&format!("{path} has no function cblas_sgemm"))
        };
        let set_threads = find(&[
            c"MKL_Set_Num_Threads",
            c"openblas_set_num_threads",
            c"scipy_openblas_set_num_threads",
            c"bli_thread_set_num_threads",
        ]);
        let name = path.rsplit('/').next().unwrap_or(path).trim_start_matches("lib");
        Library {
            name: name.split(['.', '-']).next().unwrap_or(name).chars().take(15).collect(),
            sgemm: std::mem::transmute::<*mut c_void, Sgemm>(sgemm),
            set_threads: set_threads
                .map(|place| std::mem::transmute::<*mut c_void, unsafe extern "C" fn(i32)>(place)),
        }
    }
}

impl Library {
    pub fn multiply(&self, product: &Product, destination: &mut [f32], threads: usize) {
        const ROW_MAJOR: i32 = 101;
        const PLAIN: i32 = 111;
        const TRANSPOSED: i32 = 112;
        let Product { left, left_transposed, right, right_transposed, sizes } = *product;
        let [m, n, k] = sizes;
        assert!(left.len() >= m * k && right.len() >= n * k && destination.len() >= m * n);
        let [rows, columns, depth] = sizes.map(|size| size as i32);
        let (left_form, left_step) = if left_transposed { (TRANSPOSED, rows) } else { (PLAIN, depth) };
        let (right_form, right_step) = if right_transposed { (PLAIN, columns) } else { (TRANSPOSED, depth) };
        // SAFETY: the matrices lie within their values.
        unsafe {
            if let Some(set_threads) = self.set_threads {
                set_threads(threads as i32);
            }
            (self.sgemm)(
                ROW_MAJOR,
                left_form,
                right_form,
                rows,
                columns,
                depth,
                1.,
                left.as_ptr(),
                left_step,
                right.as_ptr(),
                right_step,
                0.,
                destination.as_mut_ptr(),
                columns,
            );
        }
    }
}
