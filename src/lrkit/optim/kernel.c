/* One update of a bucket of tensors: the eager reference (reference.py), entry by entry, in one pass over memory.

   Compiled at run time, once for each form of rule and each type of entry. What a form has is a constant 0 or 1 here, so the
   compiler leaves out the rest:
     MOMENTUM  a buffer m            AFTER     m of g/sigma, not of g       SIGN      the sign of the step, m mixed afterwards
     SQUARE    a buffer v            INSIDE    epsilon inside the root      BELIEF    v of (g - m), epsilon stored
     CENTERED  x: mean of g          MAXIMUM   1: x is the largest v, 2: the largest corrected v
     DELTA     x: mean of the squared steps (Adadelta)                      RANDOM    16-bit values are rounded at random
   ENTRY is what memory holds: 0 float, 1 double, 2 bfloat16. Arithmetic is in REAL. */
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#if ENTRY == 0
typedef float real, entry;
#define SQRT sqrtf
#elif ENTRY == 1
typedef double real, entry;
#define SQRT sqrt
#else
typedef float real;
typedef uint16_t entry;
#define SQRT sqrtf
#endif

#define LINE (64 / (long)sizeof(entry))
#define BLOCK (8 * LINE)
#define AHEAD (32 * LINE)

static inline uint32_t mixed(uint32_t h) { /* Wellons' lowbias32 */
    h ^= h >> 16; h *= 0x7feb352du; h ^= h >> 15; h *= 0x846ca68bu; return h ^ (h >> 16);
}

static inline real load(entry a) {
#if ENTRY == 2
    uint32_t bits = (uint32_t)a << 16; float out; memcpy(&out, &bits, 4); return out;
#else
    return a;
#endif
}

static inline entry stored(real a, uint32_t noise) {
#if ENTRY == 2
    uint32_t bits; memcpy(&bits, &a, 4);
    int finite = (bits & 0x7f800000u) != 0x7f800000u;
    uint32_t up = RANDOM ? noise & 0xffffu : 0x7fffu + ((bits >> 16) & 1u);
    uint32_t nan = (bits & 0x7fffffffu) > 0x7f800000u ? 0x400000u : 0u;
    return (entry)(((finite ? bits + up : bits | nan)) >> 16);
#else
    (void)noise; return a;
#endif
}

typedef struct { real wd, bm, am, bv, av, rho, cm, cg, d, e; } numbers;

static void stretch(long low, long high, entry *restrict P, const entry *restrict G, entry *restrict M, entry *restrict V,
                    entry *restrict X, const numbers n, const real gain, const real bound, uint32_t key) {
    for (long block = low; block < high; block += BLOCK) {
        long stop = block + BLOCK < high ? block + BLOCK : high;
        for (long j = block + AHEAD; j < block + AHEAD + BLOCK; j += LINE) { /* what hardware does not foresee at a page's end */
            __builtin_prefetch(P + j, 1);
            __builtin_prefetch(G + j, 0);
            if (MOMENTUM) __builtin_prefetch(M + j, 1);
            if (SQUARE) __builtin_prefetch(V + j, 1);
            if (CENTERED || MAXIMUM || DELTA) __builtin_prefetch(X + j, 1);
        }
#pragma omp simd
        for (long i = block; i < stop; i++) {
            real p = load(P[i]), m = MOMENTUM ? load(M[i]) : 0, v = SQUARE ? load(V[i]) : 0;
            real x = CENTERED || MAXIMUM || DELTA ? load(X[i]) : 0;
            real g = load(G[i]) * gain, step, sigma = 1;
            if (BOUND) g = g > bound ? bound : g < -bound ? -bound : g;
            if (n.wd != 0) g += n.wd * p; /* 0 * p is not 0 where p is not finite */
            if (MOMENTUM && !AFTER && !SIGN) m = n.bm * m + n.am * g;
            real w = BELIEF ? g - m : g;
            if (SQUARE) v = n.bv * v + n.av * (w * w) + (BELIEF ? n.e : 0);
            if (CENTERED) x = n.bv * x + n.av * g;
            if (MAXIMUM) { real a = MAXIMUM == 2 ? v * n.d : v; x = a > x || a != a ? a : x; }
            if (SQUARE) {
                real square = CENTERED ? v - x * x : MAXIMUM ? x : v;
                if (CENTERED) square = square < 0 ? 0 : square;
                if (MAXIMUM != 2) square = n.d != 0 ? square * n.d : 0; /* 0 * v is not 0 where v is not finite */
                sigma = INSIDE ? SQRT(square + n.e) : SQRT(square) + n.e;
            }
            if (DELTA) { real u = SQRT(x + n.e) / sigma * g; x = n.bv * x + n.av * (u * u); step = n.cg * u; }
            else if (AFTER) { real u = g / sigma; m = n.bm * m + n.am * u; step = n.cm * m + n.cg * u; }
            else if (SIGN) {
                real c = n.cm * m + n.cg * g;
                step = c > 0 ? n.cm + n.cg : c < 0 ? -(n.cm + n.cg) : 0;
                m = n.bm * m + n.am * g;
            } else {
                real c = MOMENTUM ? (GRADIENT ? n.cm * m + n.cg * g : n.cm * m) : n.cg * g;
                step = SQUARE ? c / sigma : c;
            }
            p = n.rho * p - step;
            uint32_t noise = RANDOM ? mixed((uint32_t)i ^ key) : 0;
            P[i] = stored(p, noise);
            if (MOMENTUM) M[i] = stored(m, RANDOM ? mixed(noise + 1u) : 0);
            if (SQUARE) V[i] = stored(v, RANDOM ? mixed(noise + 2u) : 0);
            if (CENTERED || MAXIMUM || DELTA) X[i] = stored(x, RANDOM ? mixed(noise + 3u) : 0);
        }
    }
}

/* Entries low..high of the tensors laid end to end.
   count tensors of sizes[t] entries; where[t], where[count+t], … the addresses of p, g, m, v, x (0 where there is none);
   factors: the ten numbers; gains: what each gradient is multiplied by, one a tensor, or (rows[t] > 0) one for each of rows[t]
   entries, beginning at gains[first[t]]. */
static void part(long count, const long *sizes, const int64_t *where, const double *factors, const double *gains,
                 const long *first, const long *rows, double bound, const uint32_t *keys, long low, long high) {
    const double *f = factors;
    const numbers n = {f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8], f[9]};
    long begin = 0;
    for (long t = 0; t < count && begin < high; begin += sizes[t++]) {
        long a = low - begin, b = high - begin;
        if (a < 0) a = 0;
        if (b > sizes[t]) b = sizes[t];
        while (a < b) {
            long row = rows && rows[t] > 0 ? a / rows[t] : 0, end = rows && rows[t] > 0 ? (row + 1) * rows[t] : b;
            if (end > b) end = b;
            stretch(a, end, (entry *)where[t], (const entry *)where[count + t], (entry *)where[2 * count + t],
                    (entry *)where[3 * count + t], (entry *)where[4 * count + t], n, gains[first ? first[t] + row : t], bound,
                    RANDOM ? keys[t] : 0);
            a = end;
        }
    }
}

void update(long count, const long *sizes, const int64_t *where, const double *factors, const double *gains, const long *first,
            const long *rows, double bound, const uint32_t *keys, int threads) {
    long total = 0;
    for (long t = 0; t < count; t++) total += sizes[t];
#ifdef _OPENMP
    if (total < 65536) threads = 1;
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        {
            long k = omp_get_thread_num(), all = omp_get_num_threads();
            long each = (total / all + 64) & ~63L;
            long low = k * each, high = low + each < total ? low + each : total;
            if (low < high) part(count, sizes, where, factors, gains, first, rows, bound, keys, low, high);
        }
        return;
    }
#endif
    part(count, sizes, where, factors, gains, first, rows, bound, keys, 0, total);
}

