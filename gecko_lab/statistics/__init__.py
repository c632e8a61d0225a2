"""Statistics of ablation grids: pure functions over tables of results.

A grid is a base and variants of it, each trained with the same seeds; a seed fixes the order of the data, so runs of
one seed are paired. The model behind the default tests is the analysis of variance with the seed as a block,

    value of variant v with seed s = mean of v + effect of s + noise,     noise ~ N(0, σ²), one σ for all variants.

**Why the noise is pooled.** With 3 to 5 seeds a standard deviation from one variant's own pairs is wild: two to four
degrees of freedom, and a correction over the variants needs the far tail of that t distribution. In 20,000 simulated
grids with one true difference of 3 σ, the chance to find it after a correction over 4 (8) variants was 0.67 (0.69)
with pooled noise and 0.17 (0.09) with separate noise at 3 seeds, 0.96 (0.96) and 0.66 (0.48) at 5. With no true
difference both keep below 5 % of grids with any false finding (pooled 3.5 to 4.8 %). The price is the assumption of
equal noise: where one of 2 to 8 variants has twice the noise the rate stays at 5 %, where the base has twice the noise
it is 6 to 13 %, where one variant has four times the noise 7 to 14 %. So every comparison carries the p-value of
Bartlett's test for unequal noise, and `variance="separate"` (paired t tests) keeps its rate whatever the noises are.

**Which intervals.** Holm's step-down correction decides (Holm 1979, Scand. J. Statist. 6, 65-70): the chance of any
false finding is at most 1 − level, whatever the correlation between the comparisons, which share the base. Its exact
rate with nothing to find is a little lower, because Holm does not use that correlation. Each interval has the level of
the step at which Holm judged its variant (Ludbrook 2000, Clin. Exp. Pharmacol. Physiol. 27, 212-215), so it leaves out
zero exactly where Holm rejects, and each covers its own difference with at least the nominal probability. That *all*
cover at once is guaranteed by `correction="bonferroni"` only: the two-sided regions that belong to Holm in that sense
say of a rejected difference no more than that it is not zero (Guilbaud 2008, Biom. J. 50, 678-692).

Nothing here is random: equal inputs give equal numbers.
"""

from gecko_lab.statistics.comparison import Comparison, compare
from gecko_lab.statistics.effects import Effects, factorial_effects, smallest_factorial_effects
from gecko_lab.statistics.noise import NoiseFloor, noise_floor
from gecko_lab.statistics.planning import power, seeds_needed, smallest_effect
from gecko_lab.statistics.results import Results, tidy_results
from gecko_lab.statistics.verdict import Verdict, comparison_verdicts, effect_verdicts

__all__ = [
    "Comparison",
    "Effects",
    "NoiseFloor",
    "Results",
    "Verdict",
    "compare",
    "comparison_verdicts",
    "effect_verdicts",
    "factorial_effects",
    "noise_floor",
    "power",
    "seeds_needed",
    "smallest_effect",
    "smallest_factorial_effects",
    "tidy_results",
]
