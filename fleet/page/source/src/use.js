import { Component } from "preact";
import { useEffect, useReducer, useState } from "preact/hooks";

// Draws again whenever `store` changes.
export function useStore(store) {
  const [, redraw] = useReducer((number) => number + 1, 0);
  useEffect(() => store.subscribe(redraw), [store]);
}

// A store that lives as long as what it is of: made anew when `key` changes, closed at the end.
export function useOwn(make, key) {
  const [own, setOwn] = useState(null);
  useEffect(() => {
    const made = make();
    setOwn(made);
    return () => made?.close();
  }, [key]);
  return own;
}

export function useNow(everyMs) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  return now;
}

// `View`, drawn again only when one of the props that are `watched` has changed. Not by `useMemo`: that would keep the whole tree.
export const still = (View, ...watched) =>
  class extends Component {
    shouldComponentUpdate(next) {
      return watched.some((name) => next[name] !== this.props[name]);
    }

    render(props) {
      return View(props);
    }
  };
