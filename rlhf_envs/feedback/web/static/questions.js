// The project's own questions, beside or below the texts. One question has the focus: digits answer it, Tab goes to the
// next, and Enter sends when all that is required is answered. The question of the item's kind is the first of them.

import { LETTERS, element, keyed, placeKey } from "./kinds.js";
import { clearMarks, spans } from "./spans.js";
import { keyName, t } from "./words.js";

/** Let Tab stop once at a group of buttons, at the chosen one if there is one. */
function roving(group) {
  const buttons = [...group.querySelectorAll("[aria-checked]")];
  const current = buttons.find((button) => button.getAttribute("aria-checked") === "true") ?? buttons[0];
  buttons.forEach((button) => { button.tabIndex = button === current ? 0 : -1; });
}

/** Make the buttons that have a `data-value` a group in which the arrows move: "radio" for one choice, or "checkbox". */
function groupOf(group, label, role) {
  group.setAttribute("role", role === "radio" ? "radiogroup" : "group");
  group.setAttribute("aria-label", label);
  const buttons = [...group.querySelectorAll("button[data-value]")];
  for (const button of buttons) {
    button.setAttribute("role", role);
    button.setAttribute("aria-checked", "false");
  }
  group.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const at = buttons.indexOf(event.target);
    if (!by || at < 0) return;
    event.preventDefault();
    buttons[(at + by + buttons.length) % buttons.length].focus();
  });
  roving(group);
}

function check(group, value) {
  const wanted = JSON.stringify(value);
  for (const radio of group.querySelectorAll("[role=radio]")) {
    radio.setAttribute("aria-checked", String(radio.dataset.value === wanted));
  }
  roving(group);
}

// ---- one builder per type: { element, keys, value, restore, quick }; quick ones are answered by one key

function radios({ label, options, answered }) {
  const row = element("div", "choices");
  const keys = {};
  let value;
  const choose = (chosen) => {
    value = chosen;
    check(row, value);
    answered();
  };
  for (const { key, shown = key, words, name, data, className = "" } of options) {
    const act = () => choose(data);
    const button = keyed(shown, words, act, className);
    if (name !== words) button.setAttribute("aria-label", name); // else it is named by what one sees, key and word
    button.dataset.value = JSON.stringify(data);
    row.append(button);
    if (key) keys[key] = [name, act];
  }
  groupOf(row, label, "radio");
  const known = options.map(({ data }) => JSON.stringify(data));
  const restore = (kept) => {
    if (!known.includes(JSON.stringify(kept))) return;
    value = kept;
    check(row, value);
  };
  return { element: row, keys, value: () => value, restore, quick: true };
}

function rating({ question, label, answered }) {
  const [low, high] = question.scale;
  const direct = low >= 0 && high <= 9;
  const values = [...Array(high - low + 1).keys()].map((i) => low + i);
  const options = values.map((value, i) => {
    const end = value === low ? question.ends[0] : value === high ? question.ends[1] : "";
    const key = direct ? String(value) : placeKey(i);
    return { key, shown: direct ? null : key, words: String(value), name: end ? `${value}, ${end}` : t("rate", { n: value }), data: value };
  });
  const made = radios({ label, options, answered });
  made.element.classList.add("scale");
  if (question.ends[0]) made.element.prepend(element("span", "end", question.ends[0]));
  if (question.ends[1]) made.element.append(element("span", "end", question.ends[1]));
  return made;
}

function choice({ question, label, task, answered }) {
  const words = { 3: "much_better", 2: "better", 1: "slightly_better" };
  const strengths = question.grades === 7 ? [3, 2, 1] : [1];
  const grade = (side, strength) => {
    const name = question.grades === 3 ? "better" : words[strength];
    return {
      words: t(name),
      name: t(`is_${name}`, { side: LETTERS[side] }),
      data: { choice: task.completions[side].index, strength },
      className: `side-${"ab"[side]} strength-${strength}`,
    };
  };
  const options = [
    ...strengths.map((strength) => grade(0, strength)),
    { words: t("tie"), name: t("tie_name"), data: { choice: null, strength: 0 }, className: "tie" },
    ...strengths.toReversed().map((strength) => grade(1, strength)),
  ].map((option, i) => ({ key: String(i + 1), ...option }));
  const made = radios({ label, options, answered });
  const caption = (side) => element("span", `caption side-${"ab"[side]}`, t("side_caption", { side: LETTERS[side] }));
  made.element.classList.add("pairwise", `grades-${question.grades}`);
  made.element.prepend(caption(0), element("span", "caption"), caption(1));
  return made;
}

function labels({ question, label, answered, changed }) {
  const key = (i) => question.keys[i] ?? placeKey(i);
  if (!question.multiple) {
    const options = question.labels.map((name, i) => ({ key: key(i), words: name, name, data: name }));
    return radios({ label, options, answered });
  }
  const keys = {};
  const row = element("div", "choices");
  const buttons = question.labels.map((name, i) => {
    const act = () => {
      button.setAttribute("aria-checked", String(button.getAttribute("aria-checked") !== "true"));
      changed();
    };
    const button = keyed(key(i), name, act);
    button.dataset.value = name;
    row.append(button);
    if (key(i)) keys[key(i)] = [t("key_label", { label: name }), act];
    return button;
  });
  groupOf(row, label, "checkbox");
  return {
    element: row,
    keys,
    value: () => question.labels.filter((_, i) => buttons[i].getAttribute("aria-checked") === "true"),
    restore: (kept) => buttons.forEach((button, i) => button.setAttribute("aria-checked", String(kept.includes(question.labels[i])))),
  };
}

function text({ label, changed }) {
  const field = element("textarea");
  field.rows = 1;
  field.maxLength = 100000;
  field.dir = "auto";
  field.setAttribute("aria-label", label);
  field.addEventListener("input", changed);
  return { element: field, keys: {}, value: () => field.value.trim() && field.value, restore: (kept) => { field.value = kept; } };
}

const TYPES = { choice, rating, labels, text };
const isNothing = (value) => value === undefined || value === null || value === "" || (Array.isArray(value) && !value.length);

/** Return which texts people mark. They are shown as they are, since marks count their characters. */
export function markedIn(questions) {
  const fields = questions.filter(({ type }) => type === "spans").map(({ field }) => field);
  const has = (name) => fields.some((field) => field === name || field === "both");
  return { prompt: has("prompt"), completion: has("completion") };
}

/** Return a function that maps the field of a question to the texts in which marks may stand. */
export function placesOf(task, prompt, panels) {
  const first = { body: prompt, source: task.prompt, index: null };
  const completions = panels.map((panel, i) => ({ body: panel.querySelector(".text"), source: task.completions[i].text, index: task.completions[i].index }));
  return (field) => ({ prompt: [first], completion: completions, both: [first, ...completions] })[field];
}

/** Return answers to the project's own questions in words, "name: answer" each. A and B are the texts as they are shown. */
export function ownAnswers(task, answers) {
  const places = task.completions.map((completion, i) => completion.index ?? i);
  const letter = (index) => LETTERS[places.indexOf(index)];
  const inWords = (answer) => {
    if (Array.isArray(answer) && answer.every((part) => typeof part === "number")) return places.map((index, i) => `${LETTERS[i]} ${answer[index]}`).join(", ");
    if (Array.isArray(answer)) return answer.map((part) => (typeof part === "string" ? part : `${part.label} (${part.completion === null ? t("prompt") : letter(part.completion)} ${part.start}–${part.end})`)).join(", ");
    if (typeof answer !== "object") return String(answer);
    return answer.choice === null ? t("tie_name") : t("is_better", { side: letter(answer.choice) });
  };
  return Object.entries(answers).map(([name, answer]) => `${name}: ${inWords(answer)}`);
}

/**
 * Build the questions of a task into `place`.
 *   texts(field)  returns where marks may stand, see spans.js
 *   rebind        is called when other keys apply
 *   send          sends (value of the kind's question, words, answers)
 * The kind's own controls go into `main`, its `done` is `setMain`, and `attach` tells what it returned.
 */
export function buildQuestions({ task, place, controls, mainText, texts, changed, rebind, say, send }) {
  clearMarks();
  const stops = []; // { row, element, keys, value, restore, quick, question, index, isDone }
  let active = 0;
  let kind = null;
  let mainValue;
  let mainWords = "";
  const hasMain = task.kind !== "questions";
  const main = element("div", "controls");
  const count = element("span", "order");
  count.setAttribute("aria-live", "polite");
  const button = element("button", "primary send", t("send"), " ", element("kbd", "", keyName("Enter")));
  button.type = "button";
  button.addEventListener("click", () => submit());
  controls.append(element("div", "choices sendable", count, button));

  function addRow(words, help, required, ...bodies) {
    const name = element("span", "words", words);
    name.dir = "auto";
    const head = element("div", "ask", name);
    if (!required) head.append(element("small", "soft", t("q_optional")));
    if (help) {
      const more = element("p", "soft", help);
      more.dir = "auto";
      head.append(more);
    }
    const row = element("div", "question", head, element("div", "bodies", ...bodies));
    place.append(row);
    return row;
  }

  function addStop(stop) {
    const i = stops.push(stop) - 1;
    stop.element.addEventListener("focusin", () => activate(i, false));
    stop.element.addEventListener("click", () => activate(i, false));
    return stop;
  }

  function addQuestion(question) {
    const each = question.each ? task.completions : [null];
    const bodies = each.map((completion, side) => {
      const name = completion && each.length > 1 ? `${LETTERS[side]}: ` : "";
      const stop = { question, side: completion ? side : null };
      const i = stops.length;
      const shared = { question, task, label: name + question.text, answered: () => answered(i), changed: touched, say };
      const built = question.type === "spans"
        ? spans({ ...shared, texts: texts(question.field), chosen: () => activate(i, false) })
        : TYPES[question.type](shared);
      Object.assign(stop, built);
      stop.isDone = () => !isNothing(stop.value());
      addStop(stop);
      return name ? element("div", "one", element("span", `letter side-${"ab"[side] ?? ""}`, LETTERS[side]), stop.element) : stop.element;
    });
    const row = addRow(question.text, question.help, question.required, ...bodies);
    for (const stop of stops) if (stop.question === question) stop.row = row;
  }

  // ---- answers

  const valueOf = (question) => {
    const own = stops.filter((stop) => stop.question === question);
    if (!question.each) return own[0].value();
    if (!own.every((stop) => stop.isDone())) return own.some((stop) => stop.isDone()) ? undefined : null;
    const ratings = Array(own.length);
    own.forEach((stop) => { ratings[task.completions[stop.side].index] = stop.value(); });
    return ratings;
  };

  function isDue(question, given) {
    return Object.entries(question.when).every(([name, wanted]) => [given[name]].flat().some((value) => wanted.includes(value)));
  }

  function answers() {
    const given = {};
    for (const question of task.questions) {
      const value = valueOf(question);
      if (isDue(question, given) && !isNothing(value)) given[question.name] = value;
    }
    return given;
  }

  /** Return the stops that wait for an answer: required ones, and ratings of which some are there. */
  function open() {
    const given = answers();
    const waits = ({ question, isDone }) =>
      question === null
        ? !isDone()
        : !isDone() && isDue(question, given) && (question.required || valueOf(question) === undefined && question.each);
    return stops.filter(waits);
  }

  function refresh() {
    const given = answers();
    for (const stop of stops) if (stop.question) stop.row.hidden = !isDue(stop.question, given);
    const due = stops.filter((stop) => !stop.row.hidden);
    const done = due.filter((stop) => stop.isDone()).length;
    count.textContent = open().length ? t("q_answered", { done, n: due.length }) : t("q_ready", { key: keyName("Enter") });
  }

  function touched() {
    refresh();
    changed();
  }

  function answered(i) {
    touched();
    if (stops.length === 1) return submit();
    const due = (stop) => !stop.row.hidden && !stop.isDone();
    const next = stops.findIndex((stop, j) => j > i && due(stop));
    const missing = next >= 0 ? next : stops.indexOf(open()[0]);
    if (missing >= 0) activate(missing, true);
    else rebind();
  }

  function activate(i, focus, scroll = focus) {
    if (active !== i) stops[active]?.leave?.();
    active = i;
    const stop = stops[i];
    stops.forEach(({ row }) => row.classList.toggle("active", row === stop.row));
    stops.forEach((other) => other.element.classList.toggle("focused", other === stop));
    if (focus) {
      const first = stop.element.matches("textarea") ? stop.element : stop.element.querySelector("[tabindex='0'], button, textarea");
      first?.focus({ preventScroll: true });
    }
    if (scroll) stop.row.scrollIntoView({ block: "nearest" });
    rebind();
  }

  function submit() {
    if (kind?.send) {
      mainValue = undefined;
      kind.send();
      if (mainValue === undefined) return activate(0, true);
    }
    const [missing] = open();
    if (missing) {
      say(t("q_missing", { question: missing.question?.text ?? mainText }));
      return activate(stops.indexOf(missing), true);
    }
    send(hasMain ? mainValue : {}, mainWords || t("q_sent"), answers());
  }

  if (hasMain) {
    const isDone = () => (kind?.send ? kind.draft() !== null || task.kind === "flags" : mainValue !== undefined);
    const stop = { question: null, element: main, value: () => mainValue, isDone, keys: {} };
    addStop(stop);
    stop.row = addRow(mainText, "", true, main);
  }
  task.questions.forEach(addQuestion);
  document.onselectionchange = () => stops.forEach((stop) => stop.selected?.());

  return {
    main,
    attach(made) {
      kind = made;
      if (hasMain) {
        stops[0].keys = made.keys;
        if (!made.send) groupOf(main.firstElementChild, mainText, "radio");
      }
      activate(0, true, false); // without scrolling: the texts are to be read first
      refresh();
    },
    setMain(value, words) {
      mainValue = value;
      mainWords = words;
      if (kind?.send) return; // `submit` asked for it
      check(main.firstElementChild, value);
      answered(0);
    },
    refresh,
    keys: () => stops[active].keys,
    submit,
    redraw: () => stops.forEach((stop) => stop.redraw?.()),
    draft() {
      const kept = stops
        .filter((stop) => stop.question && stop.isDone())
        .map((stop) => ({ name: stop.question.name, index: stop.side === null ? null : task.completions[stop.side].index, value: stop.value() }));
      return kept.length || mainValue !== undefined ? { main: mainValue, words: mainWords, answers: kept } : null;
    },
    restore(draft) {
      for (const { name, index, value } of draft.answers) {
        const stop = stops.find(({ question, side }) =>
          question?.name === name && (index === null ? side === null : side !== null && task.completions[side].index === index));
        try { stop?.restore(value); } catch { /* the question has changed */ }
      }
      if (draft.main !== undefined && draft.main !== null && hasMain && !kind.send) {
        mainValue = draft.main;
        mainWords = draft.words ?? "";
        check(main.firstElementChild, mainValue);
      }
      refresh();
    },
  };
}
