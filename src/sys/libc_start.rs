//! glibc's start of a static program, without its look at the processor.
//!
//! Before `main` glibc executes CPUID some sixty times: for the sizes of the caches, and to choose
//! the fastest memcpy. A hypervisor traps each of them, for 1 to 4 µs: 0.2 ms of every command
//! where this was measured, a tenth of a whole `run`. Nothing here copies enough to win that back,
//! so the functions for any x86-64 do.
//!
//! What remains of `__libc_start_main` stands below, in its order (csu/libc-start.c, of one shape
//! from glibc 2.36 to 2.43). All that its object file defines is defined here, and weakly: if a
//! libc has one symbol more that something needs, the linker takes that object in, whose strong
//! `__libc_start_main` then goes before this one.

use std::ffi::{c_char, c_int, c_void};

std::arch::global_asm!(
    ".pushsection .text.__libc_start_main, \"ax\", @progbits",
    ".weak __libc_start_main",
    ".type __libc_start_main, @function",
    "__libc_start_main: jmp {begin}",
    ".popsection",
    // Below and above which sizes memcpy and memset change their ways: what the source has where
    // it doesn't know the processor (sysdeps/x86/cacheinfo.h, dl-cacheinfo.h).
    ".pushsection .rodata.cacheinfo, \"a\", @progbits",
    ".balign 8",
    ".irp name, data_cache_size_half, data_cache_size, shared_cache_size_half, shared_cache_size, \
        shared_non_temporal_threshold, memset_non_temporal_threshold, rep_movsb_threshold, \
        rep_movsb_stop_threshold, rep_stosb_threshold, string_control",
    ".weak __x86_\\name",
    ".type __x86_\\name, @object",
    ".size __x86_\\name, 8",
    ".endr",
    "__x86_data_cache_size_half: .quad 16 << 10",
    "__x86_data_cache_size: .quad 32 << 10",
    "__x86_shared_cache_size_half: .quad 512 << 10",
    "__x86_shared_cache_size: .quad 1 << 20",
    "__x86_shared_non_temporal_threshold: .quad 768 << 10",
    "__x86_memset_non_temporal_threshold: .quad 768 << 10",
    "__x86_rep_movsb_threshold: .quad 2 << 10",
    "__x86_rep_movsb_stop_threshold: .quad 768 << 10",
    "__x86_rep_stosb_threshold: .quad 2 << 10",
    "__x86_string_control: .quad 0",
    // What a lazy binding must save: there is none in a static program.
    ".weak _dl_x86_features_tlsdesc_state_size",
    ".type _dl_x86_features_tlsdesc_state_size, @object",
    ".size _dl_x86_features_tlsdesc_state_size, 8",
    "_dl_x86_features_tlsdesc_state_size: .quad 0",
    ".popsection",
    // Where the program's libraries might be, for dlopen: glibc would look into /proc for that. -1 says
    // that it isn't known (elf/dl-origin.c).
    ".pushsection .text._dl_get_origin, \"ax\", @progbits",
    ".weak _dl_get_origin",
    ".type _dl_get_origin, @function",
    "_dl_get_origin: mov rax, -1",
    "ret",
    ".popsection",
    begin = sym begin,
);

type Main = extern "C" fn(c_int, *const *const c_char, *const *const c_char) -> c_int;

/// An `Elf64_Rela` of type R_X86_64_IRELATIVE: the address that `resolve` answers belongs at `place`.
#[repr(C)]
struct Indirect {
    place: *mut usize,
    kind: usize,
    resolve: extern "C" fn() -> usize,
}

unsafe extern "C" {
    static mut __environ: *const *const c_char;
    static mut __libc_stack_end: *const c_void;
    /// 16 random bytes from the kernel (AT_RANDOM), not aligned.
    static _dl_random: *const [usize; 2];
    // The linker's tables. The first isn't there if the program relocates itself (static-pie):
    // such a one doesn't link, as begin would have to do that too (.cargo/config.toml).
    static __rela_iplt_start: [Indirect; 0];
    static __rela_iplt_end: [Indirect; 0];
    static __init_array_start: [Main; 0];
    static __init_array_end: [Main; 0];

    fn _dl_aux_init(auxv: *const c_void);
    fn __tunables_init(environ: *const *const c_char);
    fn __libc_setup_tls();
    fn __libc_early_init(initial: bool);
    fn __libc_init_first(argc: c_int, argv: *const *const c_char, environ: *const *const c_char);
}

/// `__libc_start_main`, as crt1.o's `_start` calls it on the stack that the kernel made. Until
/// the tables are gone through no function may be called that has several versions, as memcpy.
// SAFETY: every access is one that __libc_start_main does, on its arguments and in its order.
unsafe extern "C" fn begin(
    main: Main,
    argc: c_int,
    argv: *const *const c_char,
    _init: *const c_void,
    _fini: *const c_void,
    _rtld_fini: *const c_void,
    stack_end: *const c_void,
) -> ! {
    // SAFETY: as above. After argv and a null comes environ, after another null auxv.
    let code = unsafe {
        let environ = argv.offset(argc as isize + 1);
        __environ = environ;
        __libc_stack_end = stack_end;
        let mut end = environ;
        while !(*end).is_null() {
            end = end.add(1);
        }
        _dl_aux_init(end.add(1).cast());
        __tunables_init(environ);

        let mut entry = (&raw const __rela_iplt_start).cast::<Indirect>();
        while entry < (&raw const __rela_iplt_end).cast() {
            *(*entry).place = ((*entry).resolve)();
            entry = entry.add(1);
        }
        __libc_setup_tls();
        // The canary of stack frames, whose lowest byte ends any string, and what saved code
        // pointers are mixed with: in the thread control block (sysdeps/x86_64/nptl/tls.h).
        let [canary, guard] = _dl_random.read_unaligned();
        std::arch::asm!(
            "mov fs:[0x28], {canary}",
            "mov fs:[0x30], {guard}",
            canary = in(reg) canary & !0xff,
            guard = in(reg) guard,
            options(nostack, preserves_flags),
        );
        __libc_early_init(true);
        __libc_init_first(argc, argv, environ);

        // Rust's own, which finds the arguments, among them.
        let mut function = (&raw const __init_array_start).cast::<Main>();
        while function < (&raw const __init_array_end).cast() {
            (*function)(argc, argv, environ);
            function = function.add(1);
        }
        main(argc, argv, environ)
    };
    super::process::exit_now(code)
}
