package cli

// choice is a value of a factor, both by number.
type choice struct{ factor, value int }

// pair is two choices that a combination makes, the lower factor first.
type pair [2]choice

// allPairs makes combinations, with one value of each factor, that contain every pair of
// values. sizes are the numbers of values. A pair that excluded names is in no combination. A
// combination counts for a pair only if counts returns true. The algorithm is greedy: each
// combination begins with a missing pair. Then it adds, factor by factor, the value that
// contributes most of the missing pairs.
func allPairs(sizes []int, excluded func(pair) bool, counts func(all []int, p pair) bool) (rows [][]int) {
	missing := map[pair]bool{}
	var order []pair
	for a := range sizes {
		for b := a + 1; b < len(sizes); b++ {
			for v := range sizes[a] {
				for w := range sizes[b] {
					if p := (pair{{a, v}, {b, w}}); !excluded(p) {
						missing[p] = true
						order = append(order, p)
					}
				}
			}
		}
	}
	for _, first := range order {
		if !missing[first] {
			continue
		}
		row := fill(sizes, first, missing, excluded, counts)
		for p := range missing {
			if row[p[0].factor] == p[0].value && row[p[1].factor] == p[1].value && counts(row, p) {
				delete(missing, p)
			}
		}
		if missing[first] {
			panic("a pair is in no combination that counts")
		}
		rows = append(rows, row)
	}
	return rows
}

// fill completes a combination that has a pair. Values that are not chosen yet are -1.
func fill(sizes []int, first pair, missing map[pair]bool, excluded func(pair) bool, counts func([]int, pair) bool) []int {
	row := make([]int, len(sizes))
	for i := range row {
		row[i] = -1
	}
	for _, c := range first {
		row[c.factor] = c.value
	}
	for factor, size := range sizes {
		if row[factor] >= 0 {
			continue
		}
		best, most := -1, -1
		for i := range size {
			value := (i + first[0].value + first[1].value) % size // not always the first of equals
			row[factor] = value
			if gain, ok := gains(row, choice{factor, value}, missing, excluded, counts); ok && counts(row, first) && gain > most {
				best, most = value, gain
			}
		}
		if row[factor] = best; best < 0 {
			panic("a combination cannot be completed")
		}
	}
	return row
}

// gains is how many missing pairs a choice adds to the chosen values. ok is false if one of
// its pairs is excluded.
func gains(row []int, c choice, missing map[pair]bool, excluded func(pair) bool, counts func([]int, pair) bool) (n int, ok bool) {
	for factor, value := range row {
		if factor == c.factor || value < 0 {
			continue
		}
		p := pair{c, {factor, value}}
		if factor < c.factor {
			p = pair{{factor, value}, c}
		}
		if excluded(p) {
			return 0, false
		}
		if missing[p] && counts(row, p) {
			n++
		}
	}
	return n, true
}
