// Reads `kind<TAB>stored text` from each line, and prints `parsed value<TAB>text that Go writes for it`.
// Uses only Go's standard library.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func read(kind, text string) (string, string) {
	moment := func(layout string) time.Time {
		t, err := time.Parse(layout, text)
		check(err)
		return t
	}
	switch kind {
	case "duration":
		d, err := time.ParseDuration(text)
		check(err)
		return strconv.FormatInt(d.Nanoseconds(), 10), d.String()
	case "integer":
		n, ok := new(big.Int).SetString(text, 10)
		if !ok {
			panic(text)
		}
		return n.String(), n.String()
	case "number":
		f, err := strconv.ParseFloat(text, 64)
		check(err)
		return fmt.Sprintf("%016x", math.Float64bits(f)), strconv.FormatFloat(f, 'g', -1, 64)
	case "boolean":
		b, err := strconv.ParseBool(text)
		check(err)
		return strconv.FormatBool(b), strconv.FormatBool(b)
	case "ip":
		ip, err := netip.ParseAddr(text)
		check(err)
		return hex.EncodeToString(ip.AsSlice()), ip.String()
	case "address":
		a, err := netip.ParseAddrPort(text)
		check(err)
		return hex.EncodeToString(a.Addr().AsSlice()) + " " + strconv.Itoa(int(a.Port())), a.String()
	case "url":
		u, err := url.Parse(text)
		check(err)
		return u.Scheme + " " + u.Hostname(), u.String()
	case "uuid":
		digits := strings.ReplaceAll(text, "-", "")
		_, err := hex.DecodeString(digits)
		check(err)
		return digits, text
	case "time":
		t := moment(time.RFC3339)
		return strconv.FormatInt(t.UnixMilli(), 10), t.Format(time.RFC3339Nano)
	case "time with offset":
		t := moment(time.RFC3339)
		_, offset := t.Zone()
		return fmt.Sprintf("%d %d", t.UnixMilli(), offset), t.Format(time.RFC3339Nano)
	case "date":
		t := moment(time.DateOnly)
		return strconv.FormatInt(t.UnixMilli(), 10), t.Format(time.DateOnly)
	case "time of day":
		t := moment(time.TimeOnly)
		day := t.Truncate(24 * time.Hour)
		return strconv.FormatInt(t.Sub(day).Milliseconds(), 10), t.Format("15:04:05.999999999")
	case "date and time":
		t := moment("2006-01-02T15:04:05")
		return strconv.FormatInt(t.UnixMilli(), 10), t.Format("2006-01-02T15:04:05.999999999")
	case "json":
		var v struct {
			Names []string
			Rate  float64
		}
		check(json.Unmarshal([]byte(text), &v))
		own, err := json.Marshal(map[string]any{"names": v.Names, "rate": v.Rate})
		check(err)
		return strings.Join(v.Names, ",") + " " + fmt.Sprintf("%016x", math.Float64bits(v.Rate)), string(own)
	}
	panic("unknown kind " + kind)
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		kind, text, _ := strings.Cut(lines.Text(), "\t")
		is, own := read(kind, text)
		fmt.Printf("%s\t%s\n", is, own)
	}
}
