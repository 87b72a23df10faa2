//! libnftables, opened at run time.
//!
//! The crate's only place that calls C, and the only one with `unsafe`.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_char, c_int, c_uint},
    fs::File,
    io::{self, Write},
    os::fd::AsRawFd,
    ptr::NonNull,
};

use libloading::Library;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        socket::{SockFlag, SockProtocol},
    },
};

use serde_json::Value;

use crate::{dispatch::leftovers::Listing, model::SetRef};

use super::{Complaint, FileComplaint, complaint, netlink::connect};

/// libnftables with one context, which stays open: making one ends the process when no file descriptor is free.
///
/// Not `Send`: the library promises nothing about threads.
#[derive(Debug)]
pub struct Libnftables {
    context: NonNull<Context>,
    functions: Functions,
    /// Owns the code of `functions`, so it goes last.
    _library: Library,
}

const NAME: &str = "libnftables.so.1";

// nftables/libnftables.h
const OUTPUT_HANDLE: c_uint = 1 << 3;
const OUTPUT_JSON: c_uint = 1 << 4;
const OUTPUT_NUMERIC_ALL: c_uint = 0b1111 << 7;
const OUTPUT_TERSE: c_uint = 1 << 11;
const INPUT_NO_DNS: c_uint = 1 << 0;

impl Libnftables {
    /// Loads the library and makes a context, whose socket is in the current network namespace.
    ///
    /// # Errors
    /// What is missing.
    pub fn open() -> Result<Self, String> {
        // SAFETY: libnftables and what it is linked with are ordinary libraries: their initialisers ask nothing of
        // the caller.
        let library = unsafe { Library::new(NAME) }.map_err(|error| unloadable(&error))?;
        // SAFETY: `Functions` declares them as nftables/libnftables.h does.
        let functions = unsafe { Functions::of(&library) }.map_err(|error| unloadable(&error))?;
        let context = functions.new_context()?;
        Ok(Self { context, functions, _library: library })
    }

    /// Gives back the memory that the context holds: it keeps what it last read of the ruleset. Afterwards
    /// changes come from another netlink port. Does nothing when there is no file descriptor to spare.
    pub fn release_memory(&mut self) {
        // Without such a socket to be had, libnftables ends the process.
        let spare = connect(SockProtocol::NetlinkNetFilter, SockFlag::SOCK_CLOEXEC, 0);
        let set_up = spare.map(|socket| fcntl(socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)));
        if !matches!(set_up, Ok(Ok(_))) {
            return;
        }
        let Ok(context) = self.functions.new_context() else { return };
        let old = std::mem::replace(&mut self.context, context);
        // SAFETY: the old context was ours and is not used again.
        unsafe { (self.functions.ctx_free)(old.as_ptr()) };
    }

    /// Runs a script in nft's native syntax as one transaction; with `check`, the kernel only tries it.
    ///
    /// # Errors
    /// nft's words with their places in the script.
    pub fn run_script(&mut self, script: &str, check: bool) -> Result<(), Vec<Complaint>> {
        self.configure(0, check);
        let Err(complaints) = self.run_buffer(script) else { return Ok(()) };
        if complaints.iter().any(Complaint::is_passing) {
            return Err(complaints);
        }
        Err(self.placed(script).unwrap_or(complaints))
    }

    /// What nft says of a script that it refuses, with the places: it tells them only of a file. It ends the process if it
    /// cannot read that, so what it does not refuse is never put into one.
    fn placed(&mut self, script: &str) -> Option<Vec<Complaint>> {
        self.configure(0, true);
        let (_file, path) = file_of(script).ok()?;
        let parse = |errors: &str| complaint::parse(errors, &path);
        self.run(self.functions.run_cmd_from_filename, &path, parse).err()
    }

    /// Runs a file as one transaction, as `nft -f` does: host names in it are resolved. With `check` it is only tried, and
    /// they are not.
    ///
    /// # Errors
    /// nft's words with their places in the file and in those that it includes.
    pub fn run_file(&mut self, path: &str, check: bool) -> Result<(), Vec<FileComplaint>> {
        self.configure(0, check);
        self.functions.set_input_flags(self.context, if check { INPUT_NO_DNS } else { 0 });
        let result = self.run(self.functions.run_cmd_from_filename, path, complaint::parse_files);
        self.functions.set_input_flags(self.context, INPUT_NO_DNS);
        result.map(drop)
    }

    /// What nft says of a file that can no longer be read, of which this was the text: [`Self::run_file`] with `check`.
    ///
    /// # Errors
    /// The same.
    pub fn check_text(&mut self, text: &str, name: &str) -> Result<(), Vec<FileComplaint>> {
        let Ok((_file, path)) = file_of(text) else { return Ok(()) };
        let mut complaints = self.run_file(&path, true).err().unwrap_or_default();
        for (file, _) in complaints.iter_mut().filter_map(|complaint| complaint.place.as_mut()) {
            if *file == path {
                name.clone_into(file);
            }
        }
        if complaints.is_empty() { Ok(()) } else { Err(complaints) }
    }

    /// What these commands list, without the elements of sets.
    ///
    /// # Errors
    /// nft's words.
    pub fn list(&mut self, commands: &[String]) -> Result<Listing, Vec<Complaint>> {
        self.configure(OUTPUT_JSON | OUTPUT_TERSE | OUTPUT_HANDLE | OUTPUT_NUMERIC_ALL, false);
        let texts: Vec<String> =
            commands.iter().map(|command| self.run_buffer(command)).collect::<Result<_, _>>()?;
        // Otherwise the buffer keeps the size of the largest ruleset.
        // SAFETY: the context is ours, and no text in the buffer is in use.
        unsafe {
            (self.functions.ctx_unbuffer_output)(self.context.as_ptr());
            (self.functions.ctx_buffer_output)(self.context.as_ptr());
        }
        Listing::read(&texts).map_err(|error| {
            vec![Complaint::unplaced(format!("libnftables' list of the ruleset is no JSON: {error}"))]
        })
    }

    /// The elements of a map, or of a set, as libnftables-json(5) has them; none if it cannot be listed.
    pub fn elements(&mut self, set: &SetRef, is_map: bool) -> Option<Value> {
        self.configure(OUTPUT_JSON | OUTPUT_NUMERIC_ALL, false);
        let kind = if is_map { "map" } else { "set" };
        let text = self.run_buffer(&format!("list {kind} {set}")).ok()?;
        let listing: Value = serde_json::from_str(&text).ok()?;
        let mut objects = listing["nftables"].as_array()?.iter();
        let set = objects.find_map(|object| object.get(kind))?;
        Some(set.get("elem").cloned().unwrap_or_else(|| Value::Array(vec![])))
    }

    /// What a command lists with handles and without elements: as nft's text, or as JSON.
    ///
    /// # Errors
    /// nft's words.
    pub fn listing(&mut self, command: &str, json: bool) -> Result<String, Vec<Complaint>> {
        self.configure(OUTPUT_TERSE | OUTPUT_HANDLE | if json { OUTPUT_JSON } else { 0 }, false);
        self.run_buffer(command)
    }

    fn configure(&mut self, output: c_uint, check: bool) {
        // SAFETY: the context is ours.
        unsafe {
            (self.functions.ctx_output_set_flags)(self.context.as_ptr(), output);
            (self.functions.ctx_set_dry_run)(self.context.as_ptr(), check);
        }
    }

    fn run_buffer(&mut self, text: &str) -> Result<String, Vec<Complaint>> {
        let parse = |errors: &str| complaint::parse(errors, "/dev/stdin");
        self.run(self.functions.run_cmd_from_buffer, text, parse)
    }

    /// Calls a function that runs a text or the file of a name. What is printed, or what is wrong: at least one complaint.
    fn run<P>(
        &mut self,
        function: Run,
        text: &str,
        parse: impl Fn(&str) -> Vec<Complaint<P>>,
    ) -> Result<String, Vec<Complaint<P>>> {
        let text =
            CString::new(text).map_err(|_| vec![Complaint::unplaced("a NUL byte, which nft cannot read")])?;
        let context = self.context.as_ptr();
        // SAFETY: the context is ours; the text is a string that outlives the call.
        let code = unsafe { function(context, text.as_ptr()) };
        let last_error = io::Error::last_os_error();
        // The library prints into two buffers; to take the texts from both has them start anew.
        // SAFETY: the context is ours; the texts are copied before the next call.
        let [output, errors] = unsafe {
            [
                copy((self.functions.ctx_get_output_buffer)(context)),
                copy((self.functions.ctx_get_error_buffer)(context)),
            ]
        };
        if code == 0 {
            return Ok(output);
        }
        let complaints = parse(&errors);
        let wordless = || format!("nft fails without a word (last error of the system: {last_error})");
        Err(if complaints.is_empty() { vec![Complaint::unplaced(wordless())] } else { complaints })
    }
}

impl Drop for Libnftables {
    fn drop(&mut self) {
        // SAFETY: the context is ours and not used again.
        unsafe { (self.functions.ctx_free)(self.context.as_ptr()) };
    }
}

/// `struct nft_ctx`.
#[repr(C)]
#[derive(Debug)]
struct Context {
    _opaque: [u8; 0],
}

impl Functions {
    /// A context that prints nothing, resolves no host names if it can be told so, and whose socket is in the
    /// current network namespace.
    fn new_context(&self) -> Result<NonNull<Context>, String> {
        // The library takes one descriptor for its socket; without one it calls exit(3).
        File::open("/dev/null")
            .map_err(|error| format!("libnftables needs a file descriptor, and there is none: {error}"))?;
        // SAFETY: 0 is NFT_CTX_DEFAULT, the only value there is.
        let context = NonNull::new(unsafe { (self.ctx_new)(0) })
            .ok_or("libnftables makes no context: out of memory")?;
        // SAFETY: the context is new, alive and nobody else's.
        let buffered = unsafe {
            (self.ctx_buffer_output)(context.as_ptr()) == 0 && (self.ctx_buffer_error)(context.as_ptr()) == 0
        };
        if !buffered {
            // SAFETY: as above, and it is not used again.
            unsafe { (self.ctx_free)(context.as_ptr()) };
            return Err("libnftables makes no buffers: out of memory".to_owned());
        }
        self.set_input_flags(context, INPUT_NO_DNS);
        Ok(context)
    }

    /// Where the library has such flags.
    fn set_input_flags(&self, context: NonNull<Context>, flags: c_uint) {
        if let Some(set_flags) = self.ctx_input_set_flags {
            // SAFETY: a context is alive as long as anybody has it.
            unsafe { set_flags(context.as_ptr(), flags) };
        }
    }
}

/// `nft_run_cmd_from_buffer` and `nft_run_cmd_from_filename`.
type Run = unsafe extern "C" fn(*mut Context, *const c_char) -> c_int;

macro_rules! functions {
    ($($field:ident = $name:literal: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        #[derive(Debug, Clone, Copy)]
        struct Functions {
            $($field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            /// Since nftables 1.0.9.
            ctx_input_set_flags: Option<unsafe extern "C" fn(*mut Context, c_uint) -> c_uint>,
        }

        impl Functions {
            /// Finds them.
            ///
            /// # Safety
            /// They must have these types in the library, and the library must outlive the result.
            unsafe fn of(library: &Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the caller promises the types.
                    $($field: *unsafe { library.get($name) }?,)*
                    // SAFETY: the same.
                    ctx_input_set_flags: unsafe { library.get(c"nft_ctx_input_set_flags") }
                        .ok()
                        .map(|function| *function),
                })
            }
        }
    };
}

functions! {
    ctx_new = c"nft_ctx_new": fn(u32) -> *mut Context;
    ctx_free = c"nft_ctx_free": fn(*mut Context);
    ctx_buffer_output = c"nft_ctx_buffer_output": fn(*mut Context) -> c_int;
    ctx_unbuffer_output = c"nft_ctx_unbuffer_output": fn(*mut Context) -> c_int;
    ctx_buffer_error = c"nft_ctx_buffer_error": fn(*mut Context) -> c_int;
    ctx_get_output_buffer = c"nft_ctx_get_output_buffer": fn(*mut Context) -> *const c_char;
    ctx_get_error_buffer = c"nft_ctx_get_error_buffer": fn(*mut Context) -> *const c_char;
    ctx_output_set_flags = c"nft_ctx_output_set_flags": fn(*mut Context, c_uint);
    ctx_set_dry_run = c"nft_ctx_set_dry_run": fn(*mut Context, bool);
    run_cmd_from_buffer = c"nft_run_cmd_from_buffer": fn(*mut Context, *const c_char) -> c_int;
    run_cmd_from_filename = c"nft_run_cmd_from_filename": fn(*mut Context, *const c_char) -> c_int;
}

/// # Safety
/// `pointer` must be null or point to a string that stays as it is during the call.
unsafe fn copy(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the caller promises a string.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// A file in memory with this text, and the name under which this process can open it.
fn file_of(script: &str) -> io::Result<(File, String)> {
    let mut file = File::from(memfd_create("scnpm.nft", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(script.as_bytes())?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // /proc may not be mounted.
    File::open(&path)?;
    Ok((file, path))
}

fn unloadable(error: &libloading::Error) -> String {
    format!("{NAME} cannot be loaded: install libnftables1 (Debian) or nftables ({error})")
}
