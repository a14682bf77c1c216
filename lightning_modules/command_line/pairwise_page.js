"use strict";
const study = JSON.parse(document.getElementById("study").textContent);
const rater = document.getElementById("rater");
const questions = Object.keys(study.questions);
const kept = `avsync pairwise ${study.study}`;

function stored() {
  // a page opened as a file may have no storage
  try { return JSON.parse(localStorage.getItem(kept)) || {}; } catch { return {}; }
}

function keep(state) {
  try { localStorage.setItem(kept, JSON.stringify(state)); } catch { /* answers then last as long as the page */ }
}

const before = stored();
// tells two saves of one person from the votes of two
const ballot = before.ballot || Array.from(crypto.getRandomValues(new Uint8Array(8)), (n) => n.toString(16).padStart(2, "0")).join("");
const answers = before.answers || {};
rater.value = before.rater || "";

function votes() {
  return study.pairs.flatMap((pair, number) => questions.flatMap((question) => {
    const side = answers[`${number}.${question}`];
    const other = pair.left_is === "a" ? "b" : "a";
    return side ? [{ clip: pair.clip, question, side, choice: side === "left" ? pair.left_is : other }] : [];
  }));
}

function show() {
  const total = study.pairs.length * questions.length;
  document.getElementById("progress").textContent = `${votes().length} of ${total} answered`;
  keep({ ballot, answers, rater: rater.value });
}

for (const input of document.querySelectorAll("input[type=radio]")) {
  input.checked = answers[input.name] === input.value;
  input.addEventListener("change", () => { answers[input.name] = input.value; show(); });
}
rater.addEventListener("input", show);

// one sound at a time
for (const video of document.querySelectorAll("video")) {
  video.addEventListener("play", () => {
    for (const other of document.querySelectorAll("video")) if (other !== video) other.pause();
  });
}

document.getElementById("save").addEventListener("click", () => {
  const record = { format: study.format, study: study.study, a: study.a, b: study.b, ballot, rater: rater.value, votes: votes() };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(record, null, 1)], { type: "application/json" }));
  link.download = `votes-${ballot}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
});
show();
