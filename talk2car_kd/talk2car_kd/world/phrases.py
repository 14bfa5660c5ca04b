"""The words of the commands: requests, places, remarks.  {np} is the referring expression, {side} left or right."""

SIDES = (
    "on the {side}", "on the {side}", "on our {side}", "on the {side} side", "to our {side}",
    "on the {side} hand side",
    "on your {side}", "over on the {side}", "to the {side}", "on the {side} side of the road",
)  # fmt: skip
RELATIONS = {
    "next to": ("next to {a}", "beside {a}", "next to {a}", "close to {a}"),
    "left of": ("to the left of {a}", "left of {a}"),
    "right of": ("to the right of {a}", "right of {a}"),
    "behind": ("behind {a}", "just behind {a}", "that is behind {a}"),
    "in front of": ("in front of {a}", "just in front of {a}", "that is in front of {a}"),
    "between": ("between {a} and {b}", "in between {a} and {b}"),
}
CLOTHES = ("in {c}", "in {c}", "in the {c} jacket", "wearing {c}", "with the {c} shirt")
ORDINALS = {1: "first", 2: "second", 3: "third"}

# Requests that hold a relation word.
NEAR = (
    "park behind {np}", "stop behind {np}", "pull over next to {np}", "park next to {np}", "stop next to {np}",
    "pull up beside {np}", "park in front of {np}", "wait behind {np}", "pull in behind {np}",
    "stop just before {np}",
    "stop right behind {np}", "park near {np}", "drop me off near {np}", "let me out next to {np}",
    "merge after {np}",
    "find a spot to park near {np}", "switch lanes before {np}", "stay behind {np}", "pull over after {np}",
    "slow down before you reach {np}", "stop somewhere close to {np}", "get in the lane behind {np}",
    "find a parking space near {np}", "pull up in front of {np}", "move in behind {np}",
    "park as close to {np} as possible", "keep driving in the lane next to {np}", "make a you-turn after {np}",
    "squeeze in between the curb and {np}",
)  # fmt: skip
# About our own car: the side is not that of the thing.
TURNS = (
    "turn {side} after {np}", "turn {side} before {np}", "turn {side} behind {np}", "turn {side} past {np}",
    "turn {side} and stop at {np}", "turn {side} where {np} is", "turn {side} once you pass {np}",
)  # fmt: skip
OWN_SIDE = (
    "pull over on the {side} next to {np}", "stop on the {side} before {np}", "move to the {side} lane after {np}",
)  # fmt: skip
VEHICLE = (
    "follow {np}", "overtake {np}", "let {np} pass", "give way to {np}", "catch up with {np}", "pass {np}",
    "keep up with {np}", "let {np} go first", "keep your distance from {np}", "do not let {np} cut in",
    "honk at {np}",
    "wait for {np}", "take the parking spot of {np}", "drive around {np}", "yield to {np}", "tail {np}", "evade {np}",
    "get into the same lane as {np}", "speed up and overtake {np}", "brake for {np}", "go where {np} is going",
)  # fmt: skip
PERSON = (
    "let {np} cross", "wait for {np} to cross", "pick up {np}", "watch out for {np}", "give way to {np}",
    "let {np} pass", "stop for {np}", "slow down for {np}", "yield to {np}", "pull over and talk to {np}",
    "do not splash {np}",
    "honk at {np}", "offer {np} a ride", "ask {np} for directions", "wave at {np}", "stay clear of {np}",
)  # fmt: skip
STATIC = (
    "drive around {np}", "avoid {np}", "steer clear of {np}", "watch out for {np}", "slow down for {np}",
    "stop at {np}", "do not hit {np}", "go around {np}", "park by {np}", "mind {np}", "swerve around {np}",
)  # fmt: skip

PREFIXES = (
    "please", "hey car,", "could you", "ok,", "can you", "i want you to", "now", "when it is safe,", "you can",
    "if possible,", "would you", "alright,", "you should", "i would like you to",
)  # fmt: skip
TAILS = (
    "please", "up ahead", "right there", "over there", "and wait for me", "so i can get out", "if it is safe",
    "and let me out", "as soon as you can", "while i make a call", "and keep the engine running",
    "at a safe distance",
    "for a minute", "until i tell you to go on", "so we do not get lost", "and turn on the hazard lights",
    "down the road", "as quickly as possible", "but be careful", "so we are on time", "without stopping",
    "and honk twice", "across the street", "when traffic allows it",
)  # fmt: skip
# Second sentences: before the request, after it, and after one about a person.
BEFORE = (
    "we are running late", "i need to get out here", "i think we are lost", "it is very bright today",
    "there is my friend", "this is close enough", "i have to make a call", "the traffic is bad", "look over there",
    "i forgot something", "my meeting starts soon", "this must be the place", "we are almost home",
    "stop daydreaming",
)  # fmt: skip
AFTER = (
    "i will be back soon", "we have plenty of time", "i want to say hello", "be careful",
    "the sun is too bright for me", "that looks like the place", "my friend is waiting there", "thank you",
    "i need some fresh air", "take your time",
    "we can walk from there", "i do not want an accident", "my house is around the corner", "hurry up",
)  # fmt: skip
AFTER_PERSON = (
    "{he} is my friend", "i know {him} from work", "{he} is waiting for me", "i want to talk to {him}",
    "i think i know {him}", "{he} looks lost", "{he} forgot something in the car",
)  # fmt: skip
