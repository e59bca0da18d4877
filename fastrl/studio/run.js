// What the page of a run does in the browser: curves take new points, bars follow a film.
// Texts of runs go into the page by textContent alone.

// Points that a curve has not drawn yet, by the id of its chart. A curve out of view waits until it
// is seen, since drawing takes CPU time from training.
const heldPoints = new Map();

const drawCurve = (id, attempt = 0) => {
  const points = heldPoints.get(id);
  const element = document.getElementById(`c${id}`);
  if (!points || element?.fastrlInView === false) return;
  const chart = getElement(id)?.chart;
  if (!chart) {
    if (attempt < 20) setTimeout(() => drawCurve(id, attempt + 1), 100); // it is being made
  } else if (element.fastrlInView === undefined) {
    inView.observe(element); // which says at once whether it is seen
  } else {
    heldPoints.delete(id);
    const data = chart.getOption().series[0].data.concat(points);
    chart.setOption({ series: [{ data: data, showSymbol: data.length < 2 }] });
  }
};

const inView = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    target.fastrlInView = isIntersecting;
    drawCurve(Number(target.id.slice(1)));
  }
});

window.fastrlCurves = (changes) => {
  for (const [id, points] of changes) {
    heldPoints.set(id, (heldPoints.get(id) ?? []).concat(points));
    drawCurve(id);
  }
};

// Called when charts are drawn anew with all of their points, maybe along another axis.
window.fastrlForget = (ids) => {
  for (const id of ids) heldPoints.delete(id);
};

window.fastrlFilm = (videoId, boxId, facts, attempt = 0) => {
  const holder = document.getElementById(`c${videoId}`);
  const box = document.getElementById(`c${boxId}`);
  const video = holder?.tagName === "VIDEO" ? holder : holder?.querySelector("video");
  if (!video || !box) {
    if (attempt < 20) setTimeout(() => window.fastrlFilm(videoId, boxId, facts, attempt + 1), 100);
    return;
  }
  const turn = (box.fastrlTurn = (box.fastrlTurn ?? 0) + 1); // an earlier film's loop ends
  box.replaceChildren();
  if (!facts) return;
  const add = (parent, kind, text = "") => {
    const element = document.createElement("div");
    element.className = kind;
    element.textContent = text;
    parent.append(element);
    return element;
  };
  const when = add(box, "desk-film-step");
  const rows = []; // what changes with the frame
  let start = 0;
  facts.dimensions.forEach((dimension, index) => {
    if (!dimension.choices) {
      const values = facts.actions.map((action) => action[index]);
      const low = dimension.low ?? Math.min(...values);
      const high = dimension.high ?? Math.max(...values);
      const row = add(box, "desk-film-row");
      add(row, "desk-film-name", dimension.name);
      const bar = add(add(row, "desk-film-track"), "desk-film-mark");
      rows.push({ index, low, high, bar, text: add(row, "desk-film-number") });
      return;
    }
    if (facts.dimensions.length > 1) add(box, "desk-film-title", dimension.name);
    dimension.choices.forEach((choice, number) => {
      const row = add(box, "desk-film-row");
      add(row, "desk-film-name", choice);
      const bar = add(add(row, "desk-film-track"), "desk-film-bar");
      const text = add(row, "desk-film-number");
      rows.push({ index, chosen: dimension.first + number, place: start + number, row, bar, text });
    });
    start += dimension.choices.length;
  });
  const sums = [];
  facts.rewards.reduce((sum, reward) => (sums.push(sum + reward), sum + reward), 0);
  let shown = -1;
  const draw = () => {
    if (!video.isConnected || box.fastrlTurn !== turn) return;
    requestAnimationFrame(draw);
    const frame = Math.floor(video.currentTime * facts.rate + 0.01);
    const step = Math.min(frame, facts.actions.length - 1);
    if (step === shown || step < 0) return;
    shown = step;
    const before = step ? sums[step - 1] : 0;
    when.textContent = `step ${step + 1} of ${facts.actions.length}, return so far ${before.toFixed(1)}`;
    for (const part of rows) {
      const action = facts.actions[step][part.index];
      if (part.row) {
        const isChosen = action === part.chosen;
        const chance = facts.probabilities.length ? facts.probabilities[step][part.place] : +isChosen;
        part.row.classList.toggle("desk-film-chosen", isChosen);
        part.bar.style.width = `${100 * chance}%`;
        part.text.textContent = `${(100 * chance).toFixed(0)} %`;
      } else {
        const place = part.high > part.low ? (action - part.low) / (part.high - part.low) : 0.5;
        part.bar.style.left = `${100 * Math.min(1, Math.max(0, place))}%`;
        part.text.textContent = action.toFixed(2);
      }
    }
    box.dataset.step = step;
  };
  draw();
};
