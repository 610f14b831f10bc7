package codectest

import (
	"debug/elf"
	"math/rand/v2"
	"os"
	"sync"
)

// Code fills dst with the machine code of the running program, from a position that
// depends on the seed. If the program cannot be read, it imitates machine code. Two
// builds of a program have different code.
func Code(dst []byte, seed uint64) {
	code := text()
	if len(code) == 0 {
		Instructions(dst, seed)
		return
	}
	for at := seed % uint64(len(code)); len(dst) > 0; at = 0 {
		dst = dst[copy(dst, code[at:]):]
	}
}

// text returns the .text section of the running program, empty if there is none.
var text = sync.OnceValue(func() []byte {
	path, err := os.Executable()
	if err != nil {
		return nil
	}
	f, err := elf.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	section := f.Section(".text")
	if section == nil {
		return nil
	}
	code, err := section.Data()
	if err != nil {
		return nil
	}
	return code
})

// opcodes are common x86-64 instruction heads.
var opcodes = []string{
	"\x48\x89", "\x48\x8b", "\x48\x83", "\x48\x8d", "\x48\x85", "\x0f\x84",
	"\x0f\x85", "\xe8", "\xe9", "\x74", "\x75", "\xc3", "\x4c\x89", "\x31\xc0",
}

// Instructions fills dst with an imitation of machine code: a few opcodes,
// register bytes that repeat, and short operands.
func Instructions(dst []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 4))
	for len(dst) > 0 {
		n := copy(dst, opcodes[r.IntN(len(opcodes))])
		n += copy(dst[n:], operand(r))
		dst = dst[n:]
	}
}

// operand returns a register byte, sometimes with a displacement of 8 or 32 bits.
func operand(r *rand.Rand) []byte {
	b := []byte{0xc0 | byte(r.IntN(8)), byte(r.IntN(16) * 8), byte(r.IntN(256)), 0, 0}
	return b[:[]int{0, 1, 1, 2, 5}[r.IntN(5)]]
}
