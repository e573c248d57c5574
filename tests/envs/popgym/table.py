"""Each id's longest episode, and the mean return of random actions with its standard error.

The means of games of right and wrong answers are exact (one answer of 4, 17 or 27 is right; higher
and lower are alike), and so are those of Battleship and MineSweeper, which are Markov chains. For
Concentration and CartPole they are upstream's own: over 4000, 3000 and 4000 episodes of the
package, and over 6000 (22.17 ± .15 steps).
"""

from tests.envs.policies_cards import random_looks_return, random_shots_return

TABLE = {
    "autoencode_easy": (103, -0.5, 0),
    "autoencode_medium": (207, -0.5, 0),
    "autoencode_hard": (311, -0.5, 0),
    "battleship_easy": (64, random_shots_return(8), 0),
    "battleship_medium": (100, random_shots_return(10), 0),
    "battleship_hard": (144, random_shots_return(12), 0),
    "concentration_easy": (104, -0.1909, 0.0017),
    "concentration_medium": (208, -0.1839, 0.0013),
    "concentration_hard": (104, -0.8338, 0.0014),
    "count_recall_easy": (51, 2 / 27 - 1, 0),
    "count_recall_medium": (103, 2 / 27 - 1, 0),
    "count_recall_hard": (207, 2 / 17 - 1, 0),
    "higher_lower_easy": (51, 0, 0),
    "higher_lower_medium": (103, 0, 0),
    "higher_lower_hard": (155, 0, 0),
    "minesweeper_easy": (14, random_looks_return(4, 2), 0),
    "minesweeper_medium": (30, random_looks_return(6, 6), 0),
    "minesweeper_hard": (54, random_looks_return(8, 10), 0),
    "position_only_cartpole_easy": (200, 22.17 / 200, 0.15 / 200),
    "position_only_cartpole_medium": (400, 22.17 / 400, 0.15 / 400),
    "position_only_cartpole_hard": (600, 22.17 / 600, 0.15 / 600),
    "repeat_first_easy": (51, -0.5, 0),
    "repeat_first_medium": (415, -0.5, 0),
    "repeat_first_hard": (831, -0.5, 0),
    "repeat_previous_easy": (51, -0.5, 0),
    "repeat_previous_medium": (103, -0.5, 0),
    "repeat_previous_hard": (155, -0.5, 0),
}
