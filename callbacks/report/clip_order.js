// Cards move between the first few and the others; by default they stay in the order in which the page came.
for (const bar of document.querySelectorAll(".order")) {
  const decks = [...document.querySelectorAll(".deck")];
  const cards = decks.flatMap((deck) => [...deck.querySelectorAll(".clip")]);
  const few = decks[0].children.length;
  const said = new Map(cards.map((card) => [card, { scores: JSON.parse(card.dataset.scores), groups: JSON.parse(card.dataset.groups) }]));
  const [by, turn, count] = ["by", "turn", "count"].map((name) => bar.querySelector(`.${name}`));
  const filters = [...bar.querySelectorAll(".part")];

  function ordered() {
    const metric = by?.value;
    if (!metric) return cards;
    const worstFirst = turn.getAttribute("aria-pressed") === "true";
    const up = (by.selectedOptions[0].dataset.higher === "0") !== worstFirst;
    const score = (card) => said.get(card).scores[metric];
    const scored = cards.filter((card) => score(card) !== undefined);
    // the sort is stable: equal ones stay as they came, and those without a score come last either way
    scored.sort((a, b) => (up ? score(a) - score(b) : score(b) - score(a)));
    return [...scored, ...cards.filter((card) => score(card) === undefined)];
  }

  function arrange() {
    if (turn) turn.disabled = !by.value;
    const fits = (card) => filters.every(({ value, dataset }) => !value || said.get(card).groups[dataset.group] === value);
    let shown = 0;
    for (const card of ordered()) {
      card.hidden = !fits(card);
      (card.hidden || shown++ >= few ? decks.at(-1) : decks[0]).append(card);
    }
    const changed = Boolean(by?.value) || filters.some(({ value }) => value);
    document.body.classList.toggle("rearranged", changed);
    count.textContent = shown < cards.length ? `${shown} of ${cards.length} clips` : "";
  }

  for (const select of [by, ...filters]) select?.addEventListener("change", arrange);
  turn?.addEventListener("click", () => {
    turn.setAttribute("aria-pressed", String(turn.getAttribute("aria-pressed") !== "true"));
    arrange();
  });
  // a browser that reloads keeps what was chosen
  arrange();
}
