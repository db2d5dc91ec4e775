//! The uncompressed kernel, which QEMU starts directly: faster than the kernel's own decompression.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::cmd;

const ELF: &[u8] = b"\x7fELF";
/// The stream formats of scripts/Makefile.lib (`cmd_zstd22`, `cmd_lz4`, `cmd_xzkern`, `cmd_gzip`).
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const LZ4_LEGACY: &[u8] = b"\x02\x21\x4c\x18";
const XZ: &[u8] = b"\xfd7zXZ\0";
const GZIP: &[u8] = b"\x1f\x8b";
/// What one block of lz4's legacy format holds when unpacked.
const LZ4_BLOCK: usize = 8 << 20;

/// The ELF file inside a bzImage.
///
/// # Errors
/// When the file is none, or its compression is not known here.
pub fn extract(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(image)?;
    let elf = if payload.starts_with(ZSTD) {
        let mut elf = Vec::new();
        ruzstd::decoding::StreamingDecoder::new(payload)?.read_to_end(&mut elf)?;
        elf
    } else if payload.starts_with(LZ4_LEGACY) {
        lz4_legacy(&payload[LZ4_LEGACY.len()..])?
    } else if payload.starts_with(XZ) {
        // The kernel's xz has a filter for x86 code, which libraries in Rust do not know.
        filter("xz", &["-dc", "--single-stream"], payload)?
    } else if payload.starts_with(GZIP) {
        filter("gzip", &["-dc"], payload)?
    } else {
        bail!("the kernel's compression is not known (it starts with {:02x?})", payload.get(..4));
    };
    ensure!(elf.starts_with(ELF), "what was unpacked is no ELF file");
    Ok(elf)
}

/// The compressed kernel, without the size that the build appends to it
/// (Documentation/arch/x86/boot.rst: `setup_sects`, `payload_offset`, `payload_length`).
fn payload(image: &[u8]) -> Result<&[u8]> {
    ensure!(image.get(0x202..0x206) == Some(b"HdrS"), "no bzImage");
    let word = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).context("the image is cut off")?;
        Ok(usize::try_from(u32::from_le_bytes(bytes.try_into()?))?)
    };
    let sectors = usize::from(image[0x1f1]) + 1;
    let start = sectors * 512 + word(0x248)?;
    image.get(start..start + word(0x24c)?.saturating_sub(4)).context("the image is cut off")
}

/// Blocks of a little-endian length and as many bytes, to the end.
fn lz4_legacy(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length))?;
        let block = tail.get(..length).context("a block of lz4 is cut off")?;
        out.append(&mut lz4_flex::block::decompress(block, LZ4_BLOCK)?);
        rest = &tail[length..];
    }
    Ok(out)
}

/// What a program makes of `input`. Its status does not matter: xz and gzip warn of what follows a stream.
fn filter(program: &str, args: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    ensure!(cmd::find(program).is_some(), "no {program} here, which this kernel is packed with: install it");
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let stdin = child.stdin.take();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
        Ok(child.wait_with_output()?.stdout)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage with one sector of header, the payload, and the appended size.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len() + 4).expect("small").to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(&[9; 4]);
        image
    }

    #[test]
    fn unpacks_lz4_in_blocks() {
        let mut payload = LZ4_LEGACY.to_vec();
        // Literals only: a token of length << 4, then the bytes.
        for literals in [ELF, b"rest"] {
            payload.extend_from_slice(&5_u32.to_le_bytes());
            payload.push(0x40);
            payload.extend_from_slice(literals);
        }
        assert_eq!(extract(&image(&payload)).expect("it is well formed"), b"\x7fELFrest");
    }

    #[test]
    fn unpacks_xz() {
        let packed = filter("xz", &["-c"], b"\x7fELF and more").expect("xz is there");
        assert_eq!(extract(&image(&packed)).expect("it is well formed"), b"\x7fELF and more");
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert!(extract(b"short").is_err());
        assert!(extract(&image(b"????")).is_err());
        assert!(extract(&image(&filter("xz", &["-c"], b"text").expect("xz is there"))).is_err());
    }
}
